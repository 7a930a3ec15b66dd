// SPDX-License-Identifier: GPL-2.0
/* What this kernel attests about the process that opens a session. */
#include <linux/cred.h>
#include <linux/ima.h>
#include <linux/mutex.h>
#include <linux/ratelimit.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/user_namespace.h>
#include <uapi/linux/hash_info.h>

#include "compat.h"
#include "sivshm.h"

/* Largest executable that is read here: 64 MiB take half a second on a slow machine. */
#define MAX_EXE_BYTES (64 << 20)
#define CHUNK_BYTES (64 << 10)
/* Executables remembered: one for each session of the largest VM is plenty. */
#define REMEMBERED 16

/* Which contents of which file. A file that is being executed can't be written. */
struct version {
	dev_t device;
	u64 inode;
	u32 generation;
	loff_t size;
	struct timespec64 changed;
};

static struct {
	struct version version;
	u8 digest[SHA256_DIGEST_SIZE];
} remembered[REMEMBERED];
static unsigned int next;
static DEFINE_MUTEX(hashing);	/* of all above; one file is read at a time */

/* Files read per second, in all. Over it the digest is unknown, which no rule about it matches. */
static DEFINE_RATELIMIT_STATE(reads, HZ, 8);

static struct version version_of(const struct inode *inode)
{
	struct version version;

	memset(&version, 0, sizeof(version));	/* compared with memcmp */
	version.device = inode->i_sb->s_dev;
	version.inode = inode->i_ino;
	version.generation = inode->i_generation;
	version.size = i_size_read(inode);
	version.changed = sivshm_inode_ctime(inode);
	return version;
}

static bool read_digest(struct file *file, u8 digest[SHA256_DIGEST_SIZE])
{
	struct sha256_ctx context;
	loff_t position = 0;
	ssize_t got;
	void *chunk;

	if (i_size_read(file_inode(file)) > MAX_EXE_BYTES || !__ratelimit(&reads))
		return false;
	/* At hand if IMA measures what is executed; else IMA hashes it now, and remembers nothing. */
	if (ima_file_hash(file, digest, SHA256_DIGEST_SIZE) == HASH_ALGO_SHA256)
		return true;
	chunk = kvmalloc(CHUNK_BYTES, GFP_KERNEL);
	if (!chunk)
		return false;
	sha256_init(&context);
	while ((got = kernel_read(file, chunk, CHUNK_BYTES, &position)) > 0) {
		sha256_update(&context, chunk, got);
		cond_resched();
		if (position > MAX_EXE_BYTES || fatal_signal_pending(current)) {
			got = -EINTR;
			break;
		}
	}
	sha256_final(&context, digest);
	kvfree(chunk);
	return got == 0;
}

static bool exe_digest(struct file *file, u8 digest[SHA256_DIGEST_SIZE])
{
	struct version version = version_of(file_inode(file));
	bool known = false;
	unsigned int i;

	if (mutex_lock_killable(&hashing))
		return false;
	for (i = 0; i < REMEMBERED && !known; i++) {
		known = !memcmp(&remembered[i].version, &version, sizeof(version));
		if (known)
			memcpy(digest, remembered[i].digest, SHA256_DIGEST_SIZE);
	}
	if (!known) {
		known = read_digest(file, digest);
		if (known) {
			remembered[next].version = version;
			memcpy(remembered[next].digest, digest, SHA256_DIGEST_SIZE);
			next = (next + 1) % REMEMBERED;
		}
	}
	mutex_unlock(&hashing);
	return known;
}

void sivshm_facts(struct sivshm_gate_facts *facts)
{
	struct file *file = sivshm_exe_file(current->mm);

	facts->pid = task_tgid_nr(current);
	facts->uid = from_kuid(&init_user_ns, current_euid());
	facts->gid = from_kgid(&init_user_ns, current_egid());
	if (file) {
		facts->exe_known = exe_digest(file, facts->exe_sha256);
		fput(file);
	}
}
