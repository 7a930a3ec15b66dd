/*
 * Sends every message of one region back through another: libsivshm from C.
 *
 *     echo IN OUT PEER [SERVICE]      reads channel IN, writes channel OUT, both shared with the
 *                                     service PEER (VM/SERVICE); a message of no bytes ends it
 *
 * It is the service SERVICE, `echo` if none is given: /etc/sivshm/svc/SERVICE.pem and .key say so.
 *
 * Build, static, so that it runs in any guest:
 *
 *     cargo rustc --release -p libsivshm --crate-type staticlib
 *     gcc -static -Wl,--gc-sections -Wall -Wextra -I guest-module/lib/include -o echo \
 *         guest-module/examples/c/echo.c target/release/libsivshm.a -lm
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
	if (argc != 4 && argc != 5) {
		fprintf(stderr, "usage: %s IN OUT PEER [SERVICE]\n", argv[0]);
		return 2;
	}

	sivshm_identity *identity;
	check("identity", sivshm_identity_named(argc == 5 ? argv[4] : "echo", &identity));
	sivshm_session *session;
	check("session", sivshm_session_open(identity, NULL, &session));
	sivshm_identity_free(identity);

	const char *peers[] = { argv[3] };
	const sivshm_open_options options = { .timeout_ms = TIMEOUT_MS };
	sivshm_region_reader *in;
	check(argv[1], sivshm_region_reader_open(session, argv[1], peers, 1, &options, &in));
	sivshm_region_writer *out;
	check(argv[2], sivshm_region_writer_open(session, argv[2], peers, 1, &options, &out));

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
