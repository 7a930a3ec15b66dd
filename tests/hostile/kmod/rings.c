// SPDX-License-Identifier: GPL-2.0
/* Frames that an honest guest would not send, and indexes that it would not store. */
#include <linux/delay.h>
#include <linux/string.h>

#include "hostile.h"

/* The user that services run as, to be granted something at all. */
#define SERVICE_USER 1000
#define SERVICE_SESSION 7

/* Bytes of a GRANT's payload. */
#define GRANT_BYTES 136

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

/*
 * An index that is further from a true one than the ring is long, whichever frames are on their way.
 * One within the ring would be judged by the bytes that it leads to: those attacks are the others.
 */
static u32 beyond(u32 index)
{
	return index + RING_BYTES + 1 + noise() % (U32_MAX / 2);
}

void attack_indexes(void)
{
	u32 times = 0;

	for (; busy(); times++) {
		WRITE_ONCE(*word(GUEST_INDEXES + TAIL), beyond(sent));
		WRITE_ONCE(*word(GUEST_INDEXES + HEAD), beyond(received));
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
