// SPDX-License-Identifier: GPL-2.0
/* Frames that an honest guest would not send, and indexes that it would not store. */
#include <linux/delay.h>
#include <linux/string.h>

#include "hostile.h"

/* The user that services run as, to be granted something at all. */
#define SERVICE_USER 1000
#define SERVICE_SESSION 7

/* Offsets in a GRANT's payload. */
#define GRANT_PART 6
#define GRANT_ACCESS 9
#define GRANT_WINDOW 10
#define GRANT_OFFSET 24
#define GRANT_EPOCH 40
#define GRANT_RING 120
#define GRANT_BYTES 136
#define MAX_GRANTED 4

/* Offsets in the head page of a channel's data, and in an acknowledgement line. */
#define DATA_SEQUENCE 0
#define DATA_LENGTH 64
#define DATA_WAITING 128
#define DATA_EPOCH 192
#define ACK_SEEN 0
#define ACK_WAITING 64
#define ACK_EPOCH 128

static u32 sent, received;

static u32 *word(size_t offset)
{
	return (u32 *)(control + offset);
}

static void put(const void *from, u32 bytes)
{
	const u8 *byte = from;

	while (bytes--)
		control[GUEST_TO_HOST + sent++ % RING_BYTES] = *byte++;
}

/* Tells the device process of everything up to here. */
static void publish(void)
{
	smp_store_release(word(GUEST_INDEXES + TAIL), sent);
	ring_doorbell(0, 0);
}

/* Sends a frame as soon as there is room; not if there is none for as long as an attack lasts. */
static bool frame(u32 length, u16 type, u32 session, const void *payload, u32 bytes)
{
	struct header header = {
		.length = cpu_to_le32(length),
		.type = cpu_to_le16(type),
		.session = cpu_to_le32(session),
	};

	while (RING_BYTES - (sent - READ_ONCE(*word(HOST_INDEXES + HEAD))) <
	       sizeof(header) + bytes) {
		ring_doorbell(0, 0);
		if (!busy())
			return false;
		usleep_range(100, 200);
	}
	put(&header, sizeof(header));
	put(payload, bytes);
	publish();
	return true;
}

static bool hello(void)
{
	struct {
		__le32 version;
		u8 boot[16];
	} __packed payload = { .version = cpu_to_le32(ABI_VERSION) };

	fill_with_noise(payload.boot, sizeof(payload.boot));
	return frame(sizeof(payload), HELLO, 0, &payload, sizeof(payload));
}

static bool open_as(u32 uid, u32 session)
{
	struct facts facts = {
		.pid = cpu_to_le32(noise()),
		.uid = cpu_to_le32(uid),
		.gid = cpu_to_le32(uid),
	};

	return frame(sizeof(facts), OPEN, session, &facts, sizeof(facts));
}

static void get(void *to, u32 bytes)
{
	u8 *byte = to;

	while (bytes--)
		*byte++ = control[HOST_TO_GUEST + received++ % RING_BYTES];
}

static void consume(void)
{
	smp_store_release(word(GUEST_INDEXES + HEAD), received);
}

/* Says that everything from the host was read; it was not looked at. */
static void skip(void)
{
	received = smp_load_acquire(word(HOST_INDEXES + TAIL));
	consume();
}

void rings_start(void)
{
	sent = *word(GUEST_INDEXES + TAIL);
	received = *word(HOST_INDEXES + TAIL);
	consume();
	hello();
}

void rings_settle(void)
{
	ring_doorbell(0, 0);
}

/* Sessions of users that no policy knows; their refusals are not read. */
void attack_opens(void)
{
	u32 session = 1000;

	while (busy() && open_as(noise(), session))
		session++;
	skip();
	say("{\"event\":\"opened\",\"times\":%u}\n", session - 1000);
}

/* Frames about sessions and grants that there are none of. */
void attack_strays(void)
{
	u8 payload[12];
	u32 frames = 0;
	__le16 reason = cpu_to_le16(1);

	while (busy()) {
		fill_with_noise(payload, sizeof(payload));
		if (!frame(sizeof(payload), REVOKED, noise(), payload, sizeof(payload)) ||
		    !frame(sizeof(payload), DATA, noise(), payload, sizeof(payload)) ||
		    !frame(sizeof(__le32), RING, noise(), payload, sizeof(__le32)) ||
		    !frame(sizeof(reason), CLOSE, noise(), &reason, sizeof(reason)))
			break;
		frames += 4;
	}
	say("{\"event\":\"strayed\",\"frames\":%u}\n", frames);
}

/* Sessions that say what no service would, and more of it than they may. */
void attack_bytes(void)
{
	static u8 payload[DATA_BYTES];
	u32 session = 1000000, said;
	__le32 credit;

	while (busy() && open_as(SERVICE_USER, session)) {
		for (said = 0; said <= CREDIT_BYTES; said += sizeof(payload)) {
			fill_with_noise(payload, sizeof(payload));
			frame(sizeof(payload), DATA, session, payload, sizeof(payload));
		}
		credit = cpu_to_le32(noise());
		frame(sizeof(credit), RING, session, &credit, sizeof(credit));
		skip();
		session++;
	}
	say("{\"event\":\"poured\",\"sessions\":%u}\n", session - 1000000);
}

struct granted {
	u8 *at;
	u64 epoch;
	bool data;
	u16 ring;
};

/* What of the next frame's grant this VM may write; false without a frame. */
static bool next_granted(struct granted *granted, bool *usable)
{
	struct header header;
	u8 payload[GRANT_BYTES];
	u16 number;

	if (received == smp_load_acquire(word(HOST_INDEXES + TAIL)))
		return false;
	get(&header, sizeof(header));
	*usable = false;
	if (le16_to_cpu(header.type) != GRANT || le32_to_cpu(header.length) != GRANT_BYTES) {
		received += le32_to_cpu(header.length);
		consume();
		return true;
	}
	get(payload, sizeof(payload));
	consume();
	number = *(u16 *)(payload + GRANT_WINDOW);
	if (payload[GRANT_ACCESS] != 2 || number >= window_count)
		return true;
	granted->at = windows[number].memory + *(u64 *)(payload + GRANT_OFFSET);
	granted->epoch = *(u64 *)(payload + GRANT_EPOCH);
	granted->data = payload[GRANT_PART] == 0;
	granted->ring = *(u16 *)(payload + GRANT_RING);
	*usable = true;
	return true;
}

static void store(u8 *at, u64 value)
{
	WRITE_ONCE(*(u64 *)at, value);
}

/* A number that somebody may believe: small, huge, or anything. */
static u64 tempting(void)
{
	switch (noise() % 4) {
	case 0:
		return noise() % 64;
	case 1:
		return U64_MAX - noise() % 64;
	case 2:
		return 1ULL << (noise() % 64);
	default:
		return (u64)noise() << 32 | noise();
	}
}

/* Plays the service, and lies in every field that its peer reads. */
void attack_answers(void)
{
	struct granted granted[MAX_GRANTED];
	unsigned int count = 0, i;
	u32 lies = 0;
	bool usable;

	open_as(SERVICE_USER, SERVICE_SESSION);
	while (busy()) {
		while (count < MAX_GRANTED && next_granted(&granted[count], &usable))
			count += usable;
		for (i = 0; i < count; i++) {
			u8 *at = granted[i].at;

			if (granted[i].data) {
				store(at + DATA_SEQUENCE, tempting());
				store(at + DATA_LENGTH, tempting());
				store(at + DATA_WAITING, tempting());
				store(at + DATA_EPOCH, noise() % 8 ? granted[i].epoch : tempting());
				fill_with_noise(at + PAGE_STEP, PAGE_STEP);
			} else {
				store(at + ACK_SEEN, tempting());
				store(at + ACK_WAITING, tempting());
				store(at + ACK_EPOCH, noise() % 8 ? granted[i].epoch : tempting());
				ring_doorbell(granted[i].ring, 0);
			}
			lies++;
		}
	}
	say("{\"event\":\"lied\",\"grants\":%u,\"times\":%u}\n", count, lies);
}

static void stopped(const char *how, u32 times)
{
	say("{\"event\":\"stopped\",\"how\":\"%s\",\"times\":%u}\n", how, times);
}

void attack_hellos(void)
{
	u32 times = 0;

	while (busy() && hello())
		times++;
	stopped("hellos", times);
}

/* Two sessions with the same number. */
void attack_twins(void)
{
	u32 times = 0;

	while (busy() && open_as(SERVICE_USER, SERVICE_SESSION))
		times++;
	stopped("twins", times);
}

/* Frames that only the host sends, or nobody. */
void attack_types(void)
{
	u8 payload[GRANT_BYTES];
	u32 times = 0;

	fill_with_noise(payload, sizeof(payload));
	while (busy() && frame(sizeof(payload), noise() % 2 ? GRANT : noise(), noise(), payload,
			       sizeof(payload)))
		times++;
	stopped("types", times);
}

/* Lengths that are not those of what follows. */
void attack_lengths(void)
{
	u32 times = 0;

	while (busy() && frame(tempting(), noise() % 10, noise(), NULL, 0))
		times++;
	stopped("lengths", times);
}

void attack_indexes(void)
{
	u32 times = 0;

	for (; busy(); times++) {
		WRITE_ONCE(*word(GUEST_INDEXES + TAIL), tempting());
		WRITE_ONCE(*word(GUEST_INDEXES + HEAD), tempting());
		ring_doorbell(0, 0);
	}
	stopped("indexes", times);
}

/* Everything at once: directory, both sides' indexes and both rings. */
void attack_garbage(void)
{
	u32 times = 0;

	for (; busy(); times++) {
		size_t at = noise() % (control_bytes / PAGE_STEP) * PAGE_STEP;

		fill_with_noise(control + at, PAGE_STEP);
		ring_doorbell(0, 0);
	}
	stopped("garbage", times);
}
