/* SPDX-License-Identifier: GPL-2.0 */
/* What moved between the kernels that this module is built for: 6.1, 6.12 and 7.x. */
#ifndef SIVSHM_COMPAT_H
#define SIVSHM_COMPAT_H

#include <linux/eventfd.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/version.h>
#include <crypto/sha2.h>

/* Names of our own: stable kernels take some of the new ones in, and nobody knows which. */

static inline void sivshm_vm_flags(struct vm_area_struct *vma, vm_flags_t set, vm_flags_t clear)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
	vma->vm_flags = (vma->vm_flags | set) & ~clear;
#else
	vm_flags_mod(vma, set, clear);
#endif
}

static inline struct timespec64 sivshm_inode_ctime(const struct inode *inode)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 6, 0)
	return inode->i_ctime;
#else
	return inode_get_ctime(inode);
#endif
}

static inline void sivshm_eventfd_signal(struct eventfd_ctx *event)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 8, 0)
	eventfd_signal(event, 1);
#else
	eventfd_signal(event);
#endif
}

/* get_mm_exe_file is not exported. */
static inline struct file *sivshm_exe_file(struct mm_struct *mm)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 7, 0)
	struct file *file;

	rcu_read_lock();
	file = rcu_dereference(mm->exe_file);
	if (file && !get_file_rcu(file))
		file = NULL;
	rcu_read_unlock();
	return file;
#else
	return get_file_active(&mm->exe_file);
#endif
}

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 16, 0)
#define sha256_ctx sha256_state
#endif

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
#define SIVSHM_IMPORT_NS(name) MODULE_IMPORT_NS(#name)
#else
#define SIVSHM_IMPORT_NS(name) MODULE_IMPORT_NS(name)
#endif

#endif
