// SPDX-License-Identifier: GPL-2.0
/*
 * SIVSHM's guest module: binds the port and the windows of this VM, and lets a process map only
 * what its open file was granted (docs/device-file.md).
 *
 * This is a shim without a policy of its own: gate.h takes every decision. Order of locks:
 * carrying_out, then mmap_lock, then sivshm_gate_lock; none is held while user memory is copied.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/ratelimit.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "sivshm.h"

/* How long the device process gets to make room in its ring before we try again. */
#define RETRY_JIFFIES msecs_to_jiffies(10)

DECLARE_RWSEM(sivshm_gate_lock);
DECLARE_WAIT_QUEUE_HEAD(sivshm_news);

/* One context carries effects out at a time, so that whoever waits for it knows they are done. */
static DEFINE_MUTEX(carrying_out);

static void receive(struct work_struct *work);
static DECLARE_DELAYED_WORK(receive_work, receive);

static void carry_out(const struct sivshm_gate_effect *effect)
{
	switch (effect->kind) {
	case SIVSHM_UNMAP:
		sivshm_unmap(effect->place, effect->offset);
		sivshm_bell_unbind(effect->place);
		break;
	case SIVSHM_WAKE:
		sivshm_bell_wake_all();
		break;
	case SIVSHM_RING:
		sivshm_pci_ring(effect->value);
		break;
	case SIVSHM_REPORT:
		pr_warn_ratelimited("%.*s\n", (int)effect->length, effect->words);
		break;
	}
}

static void carry_out_all(bool receiving)
{
	struct sivshm_gate_effect effect;
	bool more = false, owes;

	mutex_lock(&carrying_out);
	down_write(&sivshm_gate_lock);
	if (receiving)
		more = sivshm_gate_receive();
	while (sivshm_gate_effect(&effect)) {
		up_write(&sivshm_gate_lock);
		carry_out(&effect);
		down_write(&sivshm_gate_lock);
		if (effect.kind == SIVSHM_UNMAP)
			sivshm_gate_unmapped(effect.value);
	}
	owes = sivshm_gate_owes();
	up_write(&sivshm_gate_lock);
	mutex_unlock(&carrying_out);
	if (more)
		sivshm_schedule_receive();
	else if (owes)
		sivshm_schedule_retry();
}

static void receive(struct work_struct *work)
{
	sivshm_pci_observe();
	carry_out_all(true);
}

void sivshm_carry_out(void)
{
	carry_out_all(false);
}

void sivshm_schedule_receive(void)
{
	mod_delayed_work(system_highpri_wq, &receive_work, 0);
}

void sivshm_schedule_retry(void)
{
	queue_delayed_work(system_highpri_wq, &receive_work, RETRY_JIFFIES);
}

void sivshm_cancel_receive(void)
{
	cancel_delayed_work_sync(&receive_work);
}

/* The gate found a mistake in itself. It must not go on deciding. */
void sivshm_gate_panic(void)
{
	panic("sivshm: the gate has failed");
}

static int __init sivshm_init(void)
{
	int error;

	sivshm_irq_init();
	error = sivshm_chardev_register();
	if (error)
		return error;
	error = sivshm_pci_register();
	if (error)
		sivshm_chardev_unregister();
	return error;
}

static void __exit sivshm_exit(void)
{
	sivshm_pci_unregister();
	sivshm_chardev_unregister();
	sivshm_cancel_receive();
}

module_init(sivshm_init);
module_exit(sivshm_exit);
MODULE_DESCRIPTION("SIVSHM: maps only what was granted of memory shared between VMs");
MODULE_LICENSE("GPL");
SIVSHM_IMPORT_NS(CRYPTO_INTERNAL);
