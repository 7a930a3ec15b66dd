/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The gate (ffi.rs): it takes every decision, and the C files of this module carry them out.
 *
 * Functions return 0 or what is said, or a negative errno. "w": sivshm_gate_lock is held for
 * writing; "r": for reading or writing. Pointers are valid and not NULL.
 */
#ifndef SIVSHM_GATE_H
#define SIVSHM_GATE_H

#include <linux/rwsem.h>
#include <linux/types.h>

/* abi::limits; the array bounds of what the gate numbers. */
#define SIVSHM_MAX_WINDOWS 512
#define SIVSHM_MAX_VECTORS 256
#define SIVSHM_MAX_GRANTS 1024
/* Longest piece of handshake bytes that the gate takes or gives at once. */
#define SIVSHM_MAX_DATA_BYTES 2048

struct sivshm_grant;

struct sivshm_gate_caller {
	u64 mm;
	u32 session;
	u32 reserved;
};

struct sivshm_gate_facts {
	u32 pid;
	u32 uid;
	u32 gid;
	u32 exe_known;
	u8 exe_sha256[32];
};

struct sivshm_gate_placement {
	u64 offset;
	u32 window;
	u32 place;		/* of the grant: below SIVSHM_MAX_GRANTS, its own until unmapped */
	u32 writable;
	u32 reserved;
};

struct sivshm_gate_bell {
	u32 vector;
	u32 place;		/* as above */
};

struct sivshm_gate_listing {
	u64 changes;
	u32 count;
	u32 state;
	u32 reason;
	u32 reserved;
};

enum {
	SIVSHM_UNMAP = 1,	/* value is a slot: take its pages away, then sivshm_gate_unmapped */
	SIVSHM_WAKE = 2,
	SIVSHM_RING = 3,	/* value is for the doorbell register */
	SIVSHM_REPORT = 4,	/* words */
};

struct sivshm_gate_effect {
	u32 kind;
	u32 value;
	u32 place;		/* of the slot, and where its mmap offsets begin */
	u32 reserved;
	u64 offset;
	const u8 *words;
	size_t length;
};

/* What sivshm_gate_readiness returns. */
enum {
	SIVSHM_READY_DATA = 1,
	SIVSHM_READY_CHANGED = 2,
	SIVSHM_READY_RUNG = 4,
	SIVSHM_READY_ROOM = 8,
};

extern struct rw_semaphore sivshm_gate_lock;

int sivshm_gate_attach(void *control, size_t bytes, const u8 boot[16]);			/* w */
void sivshm_gate_detach(void);								/* w */
u32 sivshm_gate_vectors(void);								/* r */
int sivshm_gate_find(u8 root, u8 function, u64 bytes);	/* r: the window's number */
int sivshm_gate_claim(u16 window, u64 bytes, u64 bar);					/* w */
void sivshm_gate_unclaim(u16 window);							/* w */
void sivshm_gate_observe(u16 window, u64 bar);						/* w */
int sivshm_gate_open(u64 mm, u64 files, const struct sivshm_gate_facts *facts,
		     u32 *session);							/* w */
void sivshm_gate_close(u32 session, u64 files);						/* w */
void sivshm_gate_release(u32 session);							/* w */
bool sivshm_gate_receive(void);								/* w */
bool sivshm_gate_effect(struct sivshm_gate_effect *effect);				/* w */
void sivshm_gate_unmapped(u32 slot);							/* w */
bool sivshm_gate_owes(void);								/* r */
int sivshm_gate_map(const struct sivshm_gate_caller *caller, u64 offset, u64 length, bool write,
		    bool exec, bool shared, struct sivshm_gate_placement *placement);	/* r */
int sivshm_gate_fault(const struct sivshm_gate_caller *caller, u64 offset, u64 length, bool write,
		      struct sivshm_gate_placement *placement);				/* r */
int sivshm_gate_notify(const struct sivshm_gate_caller *caller, u32 grant, u32 *doorbell); /* r */
int sivshm_gate_bell(const struct sivshm_gate_caller *caller, u32 grant,
		     struct sivshm_gate_bell *bell);					/* r */
int sivshm_gate_rings(const struct sivshm_gate_caller *caller, u32 grant, u64 *count);	/* r */
int sivshm_gate_readiness(const struct sivshm_gate_caller *caller);	/* r; then _owes */
int sivshm_gate_read(const struct sivshm_gate_caller *caller, u8 *to, size_t bytes);	/* w */
int sivshm_gate_write(const struct sivshm_gate_caller *caller, const u8 *from,
		      size_t bytes);							/* w */
int sivshm_gate_list(const struct sivshm_gate_caller *caller,
		     struct sivshm_gate_listing *listing);				/* w */
int sivshm_gate_grant(const struct sivshm_gate_caller *caller, u32 from,
		      struct sivshm_grant *grant);					/* r */
void sivshm_gate_rang(u16 vector);							/* no lock */
void sivshm_gate_panic(void);								/* called by it */

#endif
