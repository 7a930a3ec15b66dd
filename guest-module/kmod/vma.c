// SPDX-License-Identifier: GPL-2.0
/* Mappings of granted ranges. Pages come by fault, under the lock against revocation. */
#include <linux/mm.h>
#include <linux/sched.h>

#include "compat.h"
#include "sivshm.h"
#include "sivshm_uapi.h"

/*
 * Pages enter a page table as many at a time as one table of them has: a fault costs microseconds
 * and each further page a tenth of one. Mapping all of them in mmap would be wrong: until it has
 * returned, a revocation does not find the new mapping.
 */
#define AROUND PMD_SIZE

/* Whose pages are in page tables, by place of the grant. All mappings of one are of one file. */
static struct address_space *mapped[SIVSHM_MAX_GRANTS];

static vm_fault_t fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct sivshm_gate_caller caller = sivshm_caller(vma->vm_file, vma->vm_mm);
	unsigned long start = max(vma->vm_start, ALIGN_DOWN(vmf->address, AROUND));
	unsigned long end = min(vma->vm_end, ALIGN_DOWN(vmf->address, AROUND) + AROUND);
	u64 offset = ((u64)vma->vm_pgoff << PAGE_SHIFT) + (start - vma->vm_start);
	struct sivshm_gate_placement placement;
	unsigned long address, pfn;
	vm_fault_t result = VM_FAULT_SIGBUS;

	down_read(&sivshm_gate_lock);
	if (!sivshm_gate_fault(&caller, offset, end - start, vma->vm_flags & VM_WRITE,
			       &placement)) {
		pfn = (sivshm_window_base(placement.window) + placement.offset) >> PAGE_SHIFT;
		for (address = start; address < end; address += PAGE_SIZE, pfn++) {
			result = vmf_insert_pfn(vma, address, pfn);
			if (result != VM_FAULT_NOPAGE)
				break;
		}
	}
	up_read(&sivshm_gate_lock);
	return result;
}

/* A mapping stays where it was asked for: its pages are known by its offset. */
static int mremap(struct vm_area_struct *vma)
{
	return -EINVAL;
}

/* No .access: neither /proc/PID/mem nor ptrace reads a window. */
static const struct vm_operations_struct operations = {
	.fault = fault,
	.mremap = mremap,
};

int sivshm_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct sivshm_gate_caller caller = sivshm_caller(file, current->mm);
	u64 offset = (u64)vma->vm_pgoff << PAGE_SHIFT;
	struct sivshm_gate_placement placement;
	vm_flags_t never = VM_MAYEXEC;
	int error;

	down_read(&sivshm_gate_lock);
	error = sivshm_gate_map(&caller, offset, vma->vm_end - vma->vm_start,
				vma->vm_flags & VM_WRITE, vma->vm_flags & VM_EXEC,
				vma->vm_flags & VM_MAYSHARE, &placement);
	if (!error)
		WRITE_ONCE(mapped[placement.place], file->f_mapping);
	up_read(&sivshm_gate_lock);
	if (error)
		return error;
	if (!placement.writable)
		never |= VM_MAYWRITE;
	sivshm_vm_flags(vma, VM_IO | VM_PFNMAP | VM_DONTCOPY | VM_DONTDUMP | VM_DONTEXPAND, never);
	vma->vm_ops = &operations;
	return 0;
}

/* The gate admits the slot no more: no fault brings back what leaves page tables here. */
void sivshm_unmap(u32 place, u64 offset)
{
	struct address_space *mapping = xchg(&mapped[place], NULL);

	if (mapping)
		unmap_mapping_range(mapping, offset, 1ULL << SIVSHM_GRANT_OFFSET_SHIFT, 1);
}
