/*
 * Opens /dev/sivshm in the program that it is loaded into, says what is no TLS, and listens: a process
 * whose facts fit a service hears an alert, any other nothing. Exits with what it got.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

__attribute__((constructor)) static void loaded(void)
{
	static const char garbage[] = "UUUUUUUUUUUUUUUU";
	char heard[8];
	int file = open("/dev/sivshm", O_RDWR | O_CLOEXEC);

	if (file < 0)
		_exit(errno);
	/* A session that takes no more has nothing to say either. */
	(void)!write(file, garbage, sizeof(garbage));
	_exit(read(file, heard, sizeof(heard)) > 0 ? 0 : EPERM);
}
