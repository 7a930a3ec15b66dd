// SPDX-License-Identifier: GPL-2.0
/*
 * /proc/sivshm_hostile: writing the name of an attack makes it and returns when it is over; reading
 * tells what came of the last one.
 */
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/prandom.h>
#include <linux/proc_fs.h>
#include <linux/random.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "hostile.h"

static unsigned int seconds = 2;
module_param(seconds, uint, 0444);
MODULE_PARM_DESC(seconds, "How long an attack lasts that could go on for ever");

static unsigned long long seed;
module_param(seed, ullong, 0444);
MODULE_PARM_DESC(seed, "What all noise follows from; any if it is 0");

static const struct {
	const char *name;
	void (*make)(void);
} attacks[] = {
	{ "windows", attack_windows },
	{ "doorbells", attack_doorbells },
	{ "opens", attack_opens },
	{ "strays", attack_strays },
	{ "bytes", attack_bytes },
	/* The device process reads no more frames after one of these. */
	{ "hellos", attack_hellos },
	{ "twins", attack_twins },
	{ "types", attack_types },
	{ "lengths", attack_lengths },
	{ "indexes", attack_indexes },
	{ "garbage", attack_garbage },
};

static DEFINE_MUTEX(attacking);		/* of all below */
static char report[1024];
static size_t reported;
static unsigned long until;
static struct rnd_state random;

void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	reported += vscnprintf(report + reported, sizeof(report) - reported, format, args);
	va_end(args);
}

bool busy(void)
{
	cond_resched();
	return time_before(jiffies, until);
}

u32 noise(void)
{
	return prandom_u32_state(&random);
}

void fill_with_noise(u8 *at, size_t bytes)
{
	prandom_bytes_state(&random, at, bytes);
}

static ssize_t attack(struct file *file, const char __user *from, size_t count, loff_t *position)
{
	char name[16] = {};
	ssize_t result = -EINVAL;
	unsigned int i;

	if (count >= sizeof(name))
		return -EINVAL;
	if (copy_from_user(name, from, count))
		return -EFAULT;
	mutex_lock(&attacking);
	for (i = 0; i < ARRAY_SIZE(attacks); i++) {
		if (strcmp(strim(name), attacks[i].name))
			continue;
		reported = 0;
		until = jiffies + seconds * HZ;
		attacks[i].make();
		rings_settle();
		result = count;
	}
	mutex_unlock(&attacking);
	return result;
}

static int show(struct seq_file *to, void *unused)
{
	mutex_lock(&attacking);
	seq_write(to, report, reported);
	mutex_unlock(&attacking);
	return 0;
}

static int open(struct inode *inode, struct file *file)
{
	return single_open(file, show, NULL);
}

static const struct proc_ops operations = {
	.proc_open = open,
	.proc_read = seq_read,
	.proc_write = attack,
	.proc_release = single_release,
};

static int __init hostile_init(void)
{
	int error;

	if (!seed)
		seed = get_random_u64();
	prandom_seed_state(&random, seed);
	error = functions_take();
	if (error)
		return error;
	rings_start();
	if (!proc_create(KBUILD_MODNAME, 0600, NULL, &operations)) {
		functions_leave();
		return -ENOMEM;
	}
	return 0;
}

static void __exit hostile_exit(void)
{
	remove_proc_entry(KBUILD_MODNAME, NULL);
	functions_leave();
}

module_init(hostile_init);
module_exit(hostile_exit);
MODULE_DESCRIPTION("A hostile guest kernel, for SIVSHM's security tests");
MODULE_LICENSE("GPL");
