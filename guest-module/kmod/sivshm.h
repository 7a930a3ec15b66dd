/* SPDX-License-Identifier: GPL-2.0 */
/* What the C files of this module share. */
#ifndef SIVSHM_H
#define SIVSHM_H

#include <linux/fs.h>
#include <linux/mm_types.h>
#include <linux/wait.h>

#include "gate.h"

struct pci_dev;
struct eventfd_ctx;

/* One open file; private_data of struct file. */
struct sivshm_file {
	u32 session;
	struct mm_struct *mm;	/* of the opener, referenced so that no other gets its address */
};

/* main.c */
void sivshm_carry_out(void);		/* what the gate wants done after a call */
void sivshm_schedule_receive(void);	/* from any context */
void sivshm_schedule_retry(void);	/* when the gate owes */
void sivshm_cancel_receive(void);
extern struct wait_queue_head sivshm_news;	/* for poll: anything has happened */

/* pci.c */
int sivshm_pci_register(void);
void sivshm_pci_unregister(void);
void sivshm_pci_observe(void);
void sivshm_pci_ring(u32 doorbell);
phys_addr_t sivshm_window_base(u32 window);

/* irq.c */
int sivshm_irq_request(struct pci_dev *dev, unsigned int vectors);
void sivshm_irq_free(struct pci_dev *dev, unsigned int vectors);
struct wait_queue_head *sivshm_bell_queue(u32 vector);
struct eventfd_ctx *sivshm_bell_bind(const struct sivshm_gate_bell *bell, struct eventfd_ctx *event);
void sivshm_bell_unbind(u32 place);
void sivshm_bell_wake_all(void);
void sivshm_irq_init(void);

/* chardev.c */
int sivshm_chardev_register(void);
void sivshm_chardev_unregister(void);

/* vma.c */
int sivshm_mmap(struct file *file, struct vm_area_struct *vma);
void sivshm_unmap(u32 place, u64 offset);

/* facts.c */
void sivshm_facts(struct sivshm_gate_facts *facts);

static inline struct sivshm_gate_caller sivshm_caller(const struct file *file,
						      const struct mm_struct *mm)
{
	const struct sivshm_file *opened = file->private_data;

	return (struct sivshm_gate_caller){ .mm = (uintptr_t)mm, .session = opened->session };
}

#endif
