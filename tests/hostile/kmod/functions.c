// SPDX-License-Identifier: GPL-2.0
/* The PCI functions of the VM. */
#include <linux/pci.h>

#include "hostile.h"

#define DEVICE_IVSHMEM 0x1110
#define REGISTERS_BAR 0
#define DOORBELL 12
#define MEMORY_BAR 2

struct window windows[MAX_WINDOWS];
unsigned int window_count;
u8 *control;
size_t control_bytes;

static struct pci_dev *functions[1 + MAX_WINDOWS];
static unsigned int function_count;
static u8 __iomem *registers;

void ring_doorbell(u32 target, u32 vector)
{
	writel(target << 16 | vector, registers + DOORBELL);
}

static u8 *memory_of(struct pci_dev *dev)
{
	return memremap(pci_resource_start(dev, MEMORY_BAR), pci_resource_len(dev, MEMORY_BAR),
			MEMREMAP_WB);
}

/* What the directory says about the function: 2 if this VM may write it. */
static u8 access_of(struct pci_dev *dev)
{
	u16 lines = *(u16 *)(control + DIRECTORY_WINDOWS);
	struct pci_dev *root = dev->bus->self;
	u8 *line = control + DIRECTORY_TABLE;

	for (; root && lines--; line += DIRECTORY_LINE) {
		if (line[LINE_ACCESS + 1] == root->devfn && line[LINE_ACCESS + 2] == dev->devfn)
			return line[LINE_ACCESS];
	}
	return 0;
}

static int take(struct pci_dev *dev)
{
	struct window *window = &windows[window_count];
	int error = pci_enable_device(dev);

	if (error)
		return error;
	functions[function_count++] = pci_dev_get(dev);
	if (dev->msix_cap) {
		registers = pci_iomap(dev, REGISTERS_BAR, 0);
		control = memory_of(dev);
		control_bytes = pci_resource_len(dev, MEMORY_BAR);
		return registers && control ? 0 : -ENOMEM;
	}
	if (!control)
		return -ENODEV;
	window->memory = memory_of(dev);
	window->bytes = pci_resource_len(dev, MEMORY_BAR);
	window->writable = access_of(dev) == 2;
	if (!window->memory)
		return -ENOMEM;
	window_count++;
	return 0;
}

/* The port is the first function: its directory tells what the others are. */
int functions_take(void)
{
	struct pci_dev *dev = NULL;
	int error = 0;

	while (!error && function_count <= MAX_WINDOWS &&
	       (dev = pci_get_device(PCI_VENDOR_ID_REDHAT_QUMRANET, DEVICE_IVSHMEM, dev)))
		error = take(dev);
	if (error)
		pci_dev_put(dev);
	else if (!control)
		error = -ENODEV;
	if (error)
		functions_leave();
	return error;
}

void functions_leave(void)
{
	while (window_count)
		memunmap(windows[--window_count].memory);
	if (control)
		memunmap(control);
	if (registers)
		pci_iounmap(functions[0], registers);
	while (function_count) {
		pci_disable_device(functions[--function_count]);
		pci_dev_put(functions[function_count]);
	}
}
