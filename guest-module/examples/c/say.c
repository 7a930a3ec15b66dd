/*
 * Sends one message through a region and prints what comes back: the other end of echo.c.
 *
 *     say OUT IN PEER TEXT [SERVICE]      writes channel OUT, reads channel IN, both shared with the
 *                                         service PEER (VM/SERVICE); then a message of no bytes
 *
 * It is the service SERVICE, `say` if none is given: /etc/sivshm/svc/SERVICE.pem and .key say so.
 *
 * Build as echo.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sivshm.h"

/* Longest wait for the other end, in milliseconds: it may need a minute to boot. */
static const uint32_t TIMEOUT_MS = 120 * 1000;

static void check(const char *what, int code)
{
	if (code == SIVSHM_OK)
		return;
	fprintf(stderr, "say: %s: %s\n", what, sivshm_last_error());
	exit(1);
}

int main(int argc, char **argv)
{
	if (argc != 5 && argc != 6) {
		fprintf(stderr, "usage: %s OUT IN PEER TEXT [SERVICE]\n", argv[0]);
		return 2;
	}

	sivshm_identity *identity;
	check("identity", sivshm_identity_named(argc == 6 ? argv[5] : "say", &identity));
	sivshm_session *session;
	check("session", sivshm_session_open(identity, NULL, &session));
	sivshm_identity_free(identity);

	const char *peers[] = { argv[3] };
	const sivshm_open_options options = { .timeout_ms = TIMEOUT_MS };
	sivshm_region_writer *out;
	check(argv[1], sivshm_region_writer_open(session, argv[1], peers, 1, &options, &out));
	sivshm_region_reader *in;
	check(argv[2], sivshm_region_reader_open(session, argv[2], peers, 1, &options, &in));

	check(argv[1], sivshm_region_writer_write(out, argv[4], strlen(argv[4]), TIMEOUT_MS));
	char answer[256];
	size_t length;
	check(argv[2], sivshm_region_reader_read(in, answer, sizeof(answer), TIMEOUT_MS, &length));
	printf("{\"event\":\"answer\",\"text\":\"%.*s\"}\n", (int)length, answer);

	check(argv[1], sivshm_region_writer_write(out, "", 0, TIMEOUT_MS));
	check(argv[1], sivshm_region_writer_wait_seen(out, TIMEOUT_MS));
	sivshm_region_reader_close(in);
	sivshm_region_writer_close(out);
	sivshm_session_close(session);
	return 0;
}
