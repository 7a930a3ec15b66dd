/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A hostile guest kernel: it holds a VM's port and windows, as SIVSHM's module would, and does with
 * them what it likes. It shares no code with that module; the numbers below are those of
 * docs/port.md and docs/control-frames.md.
 */
#ifndef HOSTILE_H
#define HOSTILE_H

#include <linux/io.h>
#include <linux/types.h>

#define MAX_WINDOWS 62
#define PAGE_STEP 4096

/* The control memory. */
#define DIRECTORY_WINDOWS 14	/* u16: lines of the table */
#define DIRECTORY_TABLE 128
#define DIRECTORY_LINE 48
#define LINE_ACCESS 4		/* u8: 1 read-only, 2 read-write; then u8 root, u8 function */
#define HOST_INDEXES 0x8000
#define GUEST_INDEXES 0x9000
#define TAIL 0
#define HEAD 64
#define HOST_TO_GUEST 0x10000
#define GUEST_TO_HOST 0x20000
#define RING_BYTES 0x10000

/* Frames. */
#define OPEN 1
#define DATA 2
#define GRANT 3
#define REVOKE 4
#define REVOKED 5
#define CLOSE 6
#define RING 7
#define HELLO 8
#define ABI_VERSION 1
#define DATA_BYTES 2048
#define CREDIT_BYTES 8192

struct header {
	__le32 length;
	__le16 type;
	__le16 flags;
	__le32 session;
} __packed;

struct facts {
	__le32 pid;
	__le32 uid;
	__le32 gid;
	__le32 exe_known;
	u8 exe_sha256[32];
} __packed;

/* One window: a slice. */
struct window {
	u8 *memory;
	size_t bytes;
	bool writable;
};

/* functions.c */
extern struct window windows[MAX_WINDOWS];
extern unsigned int window_count;
extern u8 *control;			/* NULL until a port was found */
extern size_t control_bytes;
void ring_doorbell(u32 target, u32 vector);
int functions_take(void);
void functions_leave(void);

/* rings.c */
void rings_start(void);			/* says HELLO */
void rings_settle(void);		/* rings once more, so that what was written is looked at */
void attack_opens(void);
void attack_strays(void);
void attack_bytes(void);
void attack_hellos(void);
void attack_twins(void);
void attack_types(void);
void attack_lengths(void);
void attack_indexes(void);
void attack_garbage(void);

/* stores.c */
void attack_windows(void);
void attack_doorbells(void);

/* main.c */
__printf(1, 2) void say(const char *format, ...);
bool busy(void);			/* for as long as an attack is to last */
u32 noise(void);
void fill_with_noise(u8 *at, size_t bytes);

#endif
