// SPDX-License-Identifier: GPL-2.0
/* Stores where none are granted, and rings to everybody. */
#include <linux/sched.h>

#include "hostile.h"

/* Ids that a port may have in tests; beyond them only a few vectors are tried. */
#define LIKELY_IDS 301
#define VECTORS 256

/* Whether any byte of the window is another afterwards. */
static bool stores(struct window *window)
{
	bool changed = false;
	size_t at;

	for (at = 0; at < window->bytes; at++) {
		volatile u8 *byte = window->memory + at;
		u8 before = *byte;

		*byte = ~before;
		changed |= *byte != before;
		if (!(at % PAGE_STEP))
			cond_resched();
	}
	return changed;
}

void attack_windows(void)
{
	bool writable = true, read_only = false;
	unsigned int i;

	for (i = 0; i < window_count; i++) {
		if (windows[i].writable)
			writable &= stores(&windows[i]);
		else
			read_only |= stores(&windows[i]);
	}
	say("{\"event\":\"attack\",\"name\":\"kernel-store-to-read-only-window\",\"wanted\":\"absent\",\"got\":\"%s\",\"granted\":\"%s\"}\n",
	    read_only ? "success" : "absent", writable && window_count ? "success" : "absent");
}

void attack_doorbells(void)
{
	static const u32 few[] = { 0, 1, 255, 65535 };
	u32 target, vector;

	for (target = 0; target <= U16_MAX; target++) {
		if (target < LIKELY_IDS) {
			for (vector = 0; vector < VECTORS; vector++)
				ring_doorbell(target, vector);
		} else {
			for (vector = 0; vector < ARRAY_SIZE(few); vector++)
				ring_doorbell(target, few[vector]);
		}
		cond_resched();
	}
	say("{\"event\":\"rang\",\"targets\":%u}\n", target);
}
