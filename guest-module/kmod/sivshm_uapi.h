/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/* What /dev/sivshm takes and gives: docs/device-file.md. All structures are little-endian. */
#ifndef SIVSHM_UAPI_H
#define SIVSHM_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define SIVSHM_UAPI_VERSION 1
/* mmap's offset is (slot << SIVSHM_GRANT_OFFSET_SHIFT) plus an offset within the grant. */
#define SIVSHM_GRANT_OFFSET_SHIFT 34
/* A timeout that never ends, in struct sivshm_wait. */
#define SIVSHM_NO_TIMEOUT 0xffffffffU

/* State of a session. */
#define SIVSHM_OPENING 0
#define SIVSHM_ACTIVE 1
#define SIVSHM_CLOSED 2

struct sivshm_grant {
	__u32 slot;
	__u32 reserved;
	__u32 id;
	__u8 kind;
	__u8 overwrite;
	__u8 part;
	__u8 reader;
	__u8 readers;
	__u8 access;
	__u16 window;
	__u32 slot_bytes;
	__u64 generation;
	__u64 offset;
	__u64 length;
	__u64 epoch;
	__u64 expiry;
	__u8 channel[32];
	__u8 peer[32];
	__u16 ring;
	__u16 vector;
	__u8 integrity;
	__u8 zero[11];
};

struct sivshm_list {
	__u64 grants;
	__u32 capacity;
	__u32 count;
	__u32 state;
	__u32 reason;
	__u64 changes;
};

struct sivshm_wait {
	__u32 grant;
	__u32 timeout_ms;
	__u64 rings;
};

struct sivshm_bind {
	__u32 grant;
	__s32 eventfd;
};

#define SIVSHM_IOC_VERSION _IOR(0xB7, 0, __u32)
#define SIVSHM_IOC_LIST _IOWR(0xB7, 1, struct sivshm_list)
#define SIVSHM_IOC_NOTIFY _IOW(0xB7, 2, __u32)
#define SIVSHM_IOC_WAIT _IOWR(0xB7, 3, struct sivshm_wait)
#define SIVSHM_IOC_BIND _IOW(0xB7, 4, struct sivshm_bind)

#endif
