// SPDX-License-Identifier: GPL-2.0
/* The PCI functions: one port, and the windows that its directory names. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/io.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/random.h>
#include <linux/slab.h>

#include "compat.h"
#include "sivshm.h"

#define DEVICE_IVSHMEM 0x1110
#define REGISTERS_BAR 0
#define DOORBELL 12
#define MEMORY_BAR 2

/* A function of ours; its driver data. */
struct function {
	struct pci_dev *dev;
	phys_addr_t base;
	void *memory;		/* write-back; as long as it is held, so are mappings of processes */
	int bars;
	bool is_port;
	u16 vectors;		/* of the port */
	u16 window;		/* else: its number */
};

/* By the gate's numbers. Written under binding and sivshm_gate_lock, read under either. */
static struct function *windows[SIVSHM_MAX_WINDOWS];
static DEFINE_MUTEX(binding);
static void __iomem *registers;		/* of the port; valid while the gate is attached to it */

phys_addr_t sivshm_window_base(u32 window)
{
	return windows[window]->base;
}

void sivshm_pci_ring(u32 doorbell)
{
	writel(doorbell, registers + DOORBELL);
}

static u64 bar_now(struct pci_dev *dev)
{
	u32 low = 0, high = 0;

	pci_read_config_dword(dev, PCI_BASE_ADDRESS_2, &low);
	if (low & PCI_BASE_ADDRESS_MEM_TYPE_64)
		pci_read_config_dword(dev, PCI_BASE_ADDRESS_3, &high);
	return ((u64)high << 32) | (low & PCI_BASE_ADDRESS_MEM_MASK);
}

/* Tells the gate where every window's BAR is now. */
void sivshm_pci_observe(void)
{
	unsigned int i;
	u64 bar;

	mutex_lock(&binding);
	for (i = 0; i < SIVSHM_MAX_WINDOWS; i++) {
		if (!windows[i])
			continue;
		bar = bar_now(windows[i]->dev);
		down_write(&sivshm_gate_lock);
		sivshm_gate_observe(i, bar);
		up_write(&sivshm_gate_lock);
	}
	mutex_unlock(&binding);
}

static void check_write_back(struct function *function)
{
#ifdef CONFIG_X86
	unsigned int level;
	pte_t *pte = lookup_address((unsigned long)function->memory, &level);

	if (!pte || (pte_flags(*pte) & (_PAGE_PCD | _PAGE_PWT)))
		pci_warn(function->dev, "memory is not write-back cached and will be slow: give its root port a pref64-reserve, so that it lies above 4 GiB\n");
#endif
}

static int map_memory(struct function *function)
{
	int error = pci_enable_device(function->dev);

	if (error)
		return error;
	function->base = pci_resource_start(function->dev, MEMORY_BAR);
	function->memory = memremap(function->base, pci_resource_len(function->dev, MEMORY_BAR),
				    MEMREMAP_WB);
	if (function->memory)
		return 0;
	pci_disable_device(function->dev);
	return -ENOMEM;
}

static void unmap_memory(struct function *function)
{
	memunmap(function->memory);
	pci_disable_device(function->dev);
}

/* Exclusive: sysfs resourceN and /dev/mem refuse from here on, also what they had mapped before. */
static int request_bars(struct function *function)
{
	function->bars = pci_select_bars(function->dev, IORESOURCE_MEM);
	return pci_request_selected_regions_exclusive(function->dev, function->bars, KBUILD_MODNAME);
}

static void release_bars(struct function *function)
{
	pci_release_selected_regions(function->dev, function->bars);
}

static void detach(void)
{
	down_write(&sivshm_gate_lock);
	sivshm_gate_detach();
	up_write(&sivshm_gate_lock);
	sivshm_carry_out();
	sivshm_cancel_receive();
}

static int bind_port(struct function *function)
{
	struct pci_dev *dev = function->dev;
	void __iomem *mapped_registers;
	u8 boot[16];
	int error;

	error = map_memory(function);
	if (error)
		return error;
	mapped_registers = pci_iomap(dev, REGISTERS_BAR, 0);
	if (!mapped_registers) {
		error = -ENOMEM;
		goto unmap;
	}
	get_random_bytes(boot, sizeof(boot));
	down_write(&sivshm_gate_lock);
	error = sivshm_gate_attach(function->memory, pci_resource_len(dev, MEMORY_BAR), boot);
	if (!error)
		registers = mapped_registers;
	function->vectors = sivshm_gate_vectors();
	up_write(&sivshm_gate_lock);
	if (error)	/* -ENODEV: somebody else's ivshmem function, which has only been looked at */
		goto iounmap;
	error = request_bars(function);
	if (error)
		goto detach;
	pci_set_master(dev);
	error = sivshm_irq_request(dev, function->vectors);
	if (error)
		goto release;
	pci_info(dev, "port with %u vectors\n", function->vectors);
	sivshm_carry_out();
	return 0;
release:
	release_bars(function);
detach:
	detach();
iounmap:
	pci_iounmap(dev, mapped_registers);
unmap:
	unmap_memory(function);
	return error;
}

static void unbind_port(struct function *function)
{
	sivshm_irq_free(function->dev, function->vectors);
	detach();
	release_bars(function);
	pci_iounmap(function->dev, registers);
	unmap_memory(function);
}

static int bind_window(struct function *function)
{
	struct pci_dev *dev = function->dev, *root = dev->bus->self;
	u64 bytes = pci_resource_len(dev, MEMORY_BAR);
	int window, error;

	if (!root || !pci_is_root_bus(root->bus))
		return -ENODEV;
	down_read(&sivshm_gate_lock);
	window = sivshm_gate_find(root->devfn, dev->devfn, bytes);
	up_read(&sivshm_gate_lock);
	if (window < 0)	/* as above, and not even that */
		return window;
	error = request_bars(function);
	if (error)
		return error;
	error = map_memory(function);
	if (error)
		goto release;
	check_write_back(function);
	mutex_lock(&binding);
	down_write(&sivshm_gate_lock);
	error = sivshm_gate_claim(window, bytes, pci_bus_address(dev, MEMORY_BAR));
	if (!error)
		windows[window] = function;
	up_write(&sivshm_gate_lock);
	mutex_unlock(&binding);
	if (error)
		goto unmap;
	function->window = window;
	sivshm_carry_out();
	return 0;
unmap:
	unmap_memory(function);
release:
	release_bars(function);
	return error;
}

static void unbind_window(struct function *function)
{
	mutex_lock(&binding);
	down_write(&sivshm_gate_lock);
	sivshm_gate_unclaim(function->window);
	windows[function->window] = NULL;
	up_write(&sivshm_gate_lock);
	mutex_unlock(&binding);
	sivshm_carry_out();
	unmap_memory(function);
	release_bars(function);
}

static int probe(struct pci_dev *dev, const struct pci_device_id *id)
{
	struct function *function = kzalloc(sizeof(*function), GFP_KERNEL);
	int error;

	if (!function)
		return -ENOMEM;
	function->dev = dev;
	function->is_port = dev->msix_cap;
	error = function->is_port ? bind_port(function) : bind_window(function);
	if (error)
		kfree(function);
	else
		pci_set_drvdata(dev, function);
	return error;
}

static void remove(struct pci_dev *dev)
{
	struct function *function = pci_get_drvdata(dev);

	if (function->is_port)
		unbind_port(function);
	else
		unbind_window(function);
	kfree(function);
}

static void shutdown(struct pci_dev *dev)
{
	struct function *function = pci_get_drvdata(dev);

	if (function->is_port)
		detach();
}

static const struct pci_device_id ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_REDHAT_QUMRANET, DEVICE_IVSHMEM) },
	{ }
};
MODULE_DEVICE_TABLE(pci, ids);

static struct pci_driver driver = {
	.name = KBUILD_MODNAME,
	.id_table = ids,
	.probe = probe,
	.remove = remove,
	.shutdown = shutdown,
	.driver.suppress_bind_attrs = true,
};

int sivshm_pci_register(void)
{
	return pci_register_driver(&driver);
}

void sivshm_pci_unregister(void)
{
	pci_unregister_driver(&driver);
}
