// SPDX-License-Identifier: GPL-2.0
/* /dev/sivshm: an open file of it is a session. */
#include <linux/fdtable.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "compat.h"
#include "sivshm.h"
#include "sivshm_uapi.h"

static int sivshm_open(struct inode *inode, struct file *file)
{
	struct sivshm_gate_facts facts = {};
	struct sivshm_file *opened;
	int error;

	if (!current->mm)
		return -EACCES;
	opened = kzalloc(sizeof(*opened), GFP_KERNEL);
	if (!opened)
		return -ENOMEM;
	sivshm_facts(&facts);
	opened->mm = current->mm;
	mmgrab(opened->mm);
	down_write(&sivshm_gate_lock);
	error = sivshm_gate_open((uintptr_t)opened->mm, (uintptr_t)current->files, &facts,
				 &opened->session);
	up_write(&sivshm_gate_lock);
	if (error) {
		mmdrop(opened->mm);
		kfree(opened);
		return error;
	}
	file->private_data = opened;
	sivshm_carry_out();
	return nonseekable_open(inode, file);
}

/* .release does not run while a mapping exists: a close by the owner's table ends the session. */
static int sivshm_flush(struct file *file, fl_owner_t files)
{
	struct sivshm_file *opened = file->private_data;

	down_write(&sivshm_gate_lock);
	sivshm_gate_close(opened->session, (uintptr_t)files);
	up_write(&sivshm_gate_lock);
	sivshm_carry_out();
	return 0;
}

static int sivshm_release(struct inode *inode, struct file *file)
{
	struct sivshm_file *opened = file->private_data;

	down_write(&sivshm_gate_lock);
	sivshm_gate_release(opened->session);
	up_write(&sivshm_gate_lock);
	sivshm_carry_out();
	mmdrop(opened->mm);
	kfree(opened);
	return 0;
}

static __poll_t sivshm_poll(struct file *file, poll_table *table)
{
	struct sivshm_gate_caller caller = sivshm_caller(file, current->mm);
	__poll_t events = 0;
	int ready;
	bool owes;

	poll_wait(file, &sivshm_news, table);
	down_read(&sivshm_gate_lock);
	ready = sivshm_gate_readiness(&caller);
	owes = sivshm_gate_owes();
	up_read(&sivshm_gate_lock);
	if (owes)
		sivshm_schedule_retry();
	if (ready < 0)
		return EPOLLERR;
	if (ready & SIVSHM_READY_DATA)
		events |= EPOLLIN | EPOLLRDNORM;
	if (ready & SIVSHM_READY_ROOM)
		events |= EPOLLOUT | EPOLLWRNORM;
	if (ready & SIVSHM_READY_CHANGED)
		events |= EPOLLPRI;
	if (ready & SIVSHM_READY_RUNG)
		events |= EPOLLRDBAND;
	return events;
}

/* Moves some bytes to the gate or from it, as soon as it has any or takes any. */
static ssize_t move_bytes(struct file *file, u8 *data, size_t bytes, bool out)
{
	struct sivshm_gate_caller caller = sivshm_caller(file, current->mm);
	/* That of frames: no peer wakes it. */
	struct wait_queue_head *queue = sivshm_bell_queue(0);
	DEFINE_WAIT_FUNC(entry, woken_wake_function);
	ssize_t moved;

	add_wait_queue(queue, &entry);
	for (;;) {
		down_write(&sivshm_gate_lock);
		moved = out ? sivshm_gate_write(&caller, data, bytes) :
			      sivshm_gate_read(&caller, data, bytes);
		up_write(&sivshm_gate_lock);
		sivshm_carry_out();
		if (moved != -EAGAIN || (file->f_flags & O_NONBLOCK))
			break;
		if (signal_pending(current)) {
			moved = -ERESTARTSYS;
			break;
		}
		wait_woken(&entry, TASK_INTERRUPTIBLE, MAX_SCHEDULE_TIMEOUT);
	}
	remove_wait_queue(queue, &entry);
	return moved;
}

static ssize_t sivshm_read(struct file *file, char __user *to, size_t bytes, loff_t *unused)
{
	ssize_t moved;
	u8 *data;

	bytes = min_t(size_t, bytes, SIVSHM_MAX_DATA_BYTES);
	data = kzalloc(bytes, GFP_KERNEL);
	if (!data)
		return -ENOMEM;
	moved = move_bytes(file, data, bytes, false);
	if (moved > 0 && copy_to_user(to, data, moved))
		moved = -EFAULT;
	kfree(data);
	return moved;
}

static ssize_t sivshm_write(struct file *file, const char __user *from, size_t bytes,
			    loff_t *unused)
{
	ssize_t moved;
	u8 *data;

	bytes = min_t(size_t, bytes, SIVSHM_MAX_DATA_BYTES);
	data = memdup_user(from, bytes);
	if (IS_ERR(data))
		return PTR_ERR(data);
	moved = move_bytes(file, data, bytes, true);
	kfree(data);
	return moved;
}

static int list(const struct sivshm_gate_caller *caller, struct sivshm_list *list)
{
	struct sivshm_grant __user *to = u64_to_user_ptr(list->grants);
	struct sivshm_gate_listing listing;
	struct sivshm_grant grant;
	int next = 0, error;
	u32 copied;

	down_write(&sivshm_gate_lock);
	error = sivshm_gate_list(caller, &listing);
	up_write(&sivshm_gate_lock);
	if (error)
		return error;
	for (copied = 0; copied < list->capacity; copied++) {
		down_read(&sivshm_gate_lock);
		next = sivshm_gate_grant(caller, next, &grant);
		up_read(&sivshm_gate_lock);
		if (next < 0)
			return next;
		if (!next)
			break;
		if (copy_to_user(to + copied, &grant, sizeof(grant)))
			return -EFAULT;
	}
	/* What was copied may be newer than the count. */
	list->count = copied < list->capacity ? copied : max(listing.count, copied);
	list->state = listing.state;
	list->reason = listing.reason;
	list->changes = listing.changes;
	return 0;
}

static int notify(const struct sivshm_gate_caller *caller, u32 grant)
{
	u32 doorbell;
	int error;

	down_read(&sivshm_gate_lock);
	error = sivshm_gate_notify(caller, grant, &doorbell);
	if (!error)
		sivshm_pci_ring(doorbell);
	up_read(&sivshm_gate_lock);
	return error;
}

static int wait_for_ring(const struct sivshm_gate_caller *caller, struct sivshm_wait *wait)
{
	long timeout = wait->timeout_ms == SIVSHM_NO_TIMEOUT ? MAX_SCHEDULE_TIMEOUT :
							       msecs_to_jiffies(wait->timeout_ms);
	DEFINE_WAIT_FUNC(entry, woken_wake_function);
	struct sivshm_gate_bell bell;
	int error;

	down_read(&sivshm_gate_lock);
	error = sivshm_gate_bell(caller, wait->grant, &bell);
	up_read(&sivshm_gate_lock);
	if (error)
		return error;
	add_wait_queue(sivshm_bell_queue(bell.vector), &entry);
	for (;;) {
		down_read(&sivshm_gate_lock);
		error = sivshm_gate_rings(caller, wait->grant, &wait->rings);
		up_read(&sivshm_gate_lock);
		if (error != -EAGAIN)
			break;
		if (!timeout) {
			error = -ETIMEDOUT;
			break;
		}
		if (signal_pending(current)) {
			error = -EINTR;
			break;
		}
		timeout = wait_woken(&entry, TASK_INTERRUPTIBLE, timeout);
	}
	remove_wait_queue(sivshm_bell_queue(bell.vector), &entry);
	return error;
}

static int bind_event(const struct sivshm_gate_caller *caller, const struct sivshm_bind *bind)
{
	struct eventfd_ctx *event = NULL;
	struct sivshm_gate_bell bell;
	int error;

	if (bind->eventfd != -1) {
		event = eventfd_ctx_fdget(bind->eventfd);
		if (IS_ERR(event))
			return PTR_ERR(event);
	}
	down_read(&sivshm_gate_lock);
	error = sivshm_gate_bell(caller, bind->grant, &bell);
	if (!error)
		event = sivshm_bell_bind(&bell, event);
	up_read(&sivshm_gate_lock);
	if (event)
		eventfd_ctx_put(event);
	return error;
}

static long sivshm_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct sivshm_gate_caller caller = sivshm_caller(file, current->mm);
	void __user *user = (void __user *)argument;
	union {
		u32 number;
		struct sivshm_list list;
		struct sivshm_wait wait;
		struct sivshm_bind bind;
	} data = {};
	int error;

	if (_IOC_SIZE(command) > sizeof(data))
		return -ENOTTY;
	if ((_IOC_DIR(command) & _IOC_WRITE) && copy_from_user(&data, user, _IOC_SIZE(command)))
		return -EFAULT;
	switch (command) {
	case SIVSHM_IOC_VERSION:
		data.number = SIVSHM_UAPI_VERSION;
		error = 0;
		break;
	case SIVSHM_IOC_LIST:
		error = list(&caller, &data.list);
		break;
	case SIVSHM_IOC_NOTIFY:
		error = notify(&caller, data.number);
		break;
	case SIVSHM_IOC_WAIT:
		error = wait_for_ring(&caller, &data.wait);
		break;
	case SIVSHM_IOC_BIND:
		error = bind_event(&caller, &data.bind);
		break;
	default:
		return -ENOTTY;
	}
	if (!error && (_IOC_DIR(command) & _IOC_READ) &&
	    copy_to_user(user, &data, _IOC_SIZE(command)))
		return -EFAULT;
	return error;
}

/* .owner: the module stays while a session lives. Who may open is no question: grants decide. */
static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.open = sivshm_open,
	.flush = sivshm_flush,
	.release = sivshm_release,
	.read = sivshm_read,
	.write = sivshm_write,
	.poll = sivshm_poll,
	.mmap = sivshm_mmap,
	.unlocked_ioctl = sivshm_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = KBUILD_MODNAME,
	.mode = 0666,
	.fops = &operations,
};

int sivshm_chardev_register(void)
{
	static_assert(sizeof(struct sivshm_grant) == 144);
	static_assert(sizeof(struct sivshm_list) == 32);
	static_assert(sizeof(struct sivshm_wait) == 16);
	static_assert(sizeof(struct sivshm_bind) == 8);
	return misc_register(&device);
}

void sivshm_chardev_unregister(void)
{
	misc_deregister(&device);
}
