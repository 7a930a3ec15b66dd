/*
 * Sends every message of one region back through another: libsivshm from C.
 *
 *     echo IN OUT      reads channel IN, writes channel OUT; a message of no bytes ends it
 *
 * Build, static, so that it runs in any guest:
 *
 *     cargo rustc --release -p libsivshm --crate-type staticlib
 *     gcc -static -Wl,--gc-sections -Wall -Wextra -I guest-module/lib/include -o echo \
 *         guest-module/examples/c/echo.c target/release/libsivshm.a
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "sivshm.h"

/* Longest wait for the other end, in milliseconds: it may need a minute to boot. */
static const uint32_t TIMEOUT_MS = 120 * 1000;

static void check(const char *what, int code)
{
	if (code == SIVSHM_OK)
		return;
	fprintf(stderr, "echo: %s: %s\n", what, sivshm_last_error());
	exit(1);
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: %s IN OUT\n", argv[0]);
		return 2;
	}

	sivshm_session *session;
	check("session", sivshm_session_open(NULL, &session));

	sivshm_region_reader *in;
	check(argv[1], sivshm_region_reader_open(session, argv[1], SIVSHM_WAIT_INTERRUPT,
						 TIMEOUT_MS, &in));
	sivshm_region_writer *out;
	check(argv[2], sivshm_region_writer_open(session, argv[2], SIVSHM_WAIT_INTERRUPT,
						 TIMEOUT_MS, &out));

	/* No answer can be longer than OUT: one that is ends the program with an error. */
	size_t capacity = sivshm_region_writer_capacity(out);
	void *message = malloc(capacity);
	if (!message) {
		fprintf(stderr, "echo: no memory for %zu bytes\n", capacity);
		return 1;
	}

	uint64_t messages = 0;
	for (;;) {
		size_t length;
		check(argv[1], sivshm_region_reader_read(in, message, capacity, TIMEOUT_MS,
							 &length));
		if (length == 0)
			break;
		check(argv[2], sivshm_region_writer_write(out, message, length, TIMEOUT_MS));
		messages++;
	}
	printf("{\"event\":\"echo\",\"messages\":%" PRIu64 "}\n", messages);

	free(message);
	sivshm_region_reader_close(in);
	sivshm_region_writer_close(out);
	sivshm_session_close(session);
	return 0;
}
