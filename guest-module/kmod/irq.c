// SPDX-License-Identifier: GPL-2.0
/* Interrupts: vector 0 says that frames wait, every other that its peer has rung. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/interrupt.h>
#include <linux/list.h>
#include <linux/pci.h>
#include <linux/spinlock.h>

#include "compat.h"
#include "sivshm.h"

struct bell {
	struct wait_queue_head wait;
	spinlock_t lock;		/* of bound */
	struct list_head bound;		/* struct binding */
};

/* An eventfd bound to the grant at this place of the gate's table. */
struct binding {
	struct list_head link;
	struct bell *bell;		/* NULL: nothing is bound; written under rebinding */
	struct eventfd_ctx *event;
};

static struct bell bells[SIVSHM_MAX_VECTORS];
static struct binding bindings[SIVSHM_MAX_GRANTS];
static DEFINE_MUTEX(rebinding);

static irqreturn_t rang(int irq, void *data)
{
	struct bell *bell = data;
	struct binding *binding;

	if (bell == bells) {
		sivshm_schedule_receive();
		return IRQ_HANDLED;
	}
	sivshm_gate_rang(bell - bells);
	spin_lock(&bell->lock);
	list_for_each_entry(binding, &bell->bound, link)
		sivshm_eventfd_signal(binding->event);
	spin_unlock(&bell->lock);
	wake_up_interruptible(&bell->wait);
	wake_up_interruptible(&sivshm_news);
	return IRQ_HANDLED;
}

void sivshm_irq_free(struct pci_dev *dev, unsigned int vectors)
{
	while (vectors--)
		free_irq(pci_irq_vector(dev, vectors), &bells[vectors]);
	pci_free_irq_vectors(dev);
}

int sivshm_irq_request(struct pci_dev *dev, unsigned int vectors)
{
	unsigned int i;
	int error = pci_alloc_irq_vectors(dev, vectors, vectors, PCI_IRQ_MSIX);

	if (error < 0)
		return error;
	for (i = 0; i < vectors; i++) {
		error = request_irq(pci_irq_vector(dev, i), rang, 0, KBUILD_MODNAME, &bells[i]);
		if (error) {
			sivshm_irq_free(dev, i);
			return error;
		}
	}
	return 0;
}

struct wait_queue_head *sivshm_bell_queue(u32 vector)
{
	return &bells[vector].wait;
}

/*
 * Signals event, or nothing if it is NULL, whenever the bell rings; returns what was bound before.
 * The caller holds sivshm_gate_lock for reading: the grant is live, and its end unbinds.
 */
struct eventfd_ctx *sivshm_bell_bind(const struct sivshm_gate_bell *bell, struct eventfd_ctx *event)
{
	struct binding *binding = &bindings[bell->place];
	struct eventfd_ctx *before;

	mutex_lock(&rebinding);
	if (binding->bell) {
		spin_lock_irq(&binding->bell->lock);
		list_del(&binding->link);
		spin_unlock_irq(&binding->bell->lock);
	}
	before = binding->event;
	binding->event = event;
	binding->bell = event ? &bells[bell->vector] : NULL;
	if (event) {
		spin_lock_irq(&binding->bell->lock);
		list_add(&binding->link, &binding->bell->bound);
		spin_unlock_irq(&binding->bell->lock);
	}
	mutex_unlock(&rebinding);
	return before;
}

void sivshm_bell_unbind(u32 place)
{
	const struct sivshm_gate_bell bell = { .place = place };
	struct eventfd_ctx *event = sivshm_bell_bind(&bell, NULL);

	if (event)
		eventfd_ctx_put(event);
}

void sivshm_bell_wake_all(void)
{
	struct bell *bell;

	for (bell = bells; bell < bells + SIVSHM_MAX_VECTORS; bell++)
		wake_up_interruptible(&bell->wait);
	wake_up_interruptible(&sivshm_news);
}

void sivshm_irq_init(void)
{
	struct bell *bell;

	for (bell = bells; bell < bells + SIVSHM_MAX_VECTORS; bell++) {
		init_waitqueue_head(&bell->wait);
		spin_lock_init(&bell->lock);
		INIT_LIST_HEAD(&bell->bound);
	}
}
