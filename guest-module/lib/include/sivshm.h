/* Generated from guest-module/lib/src/capi: do not edit. */

#ifndef SIVSHM_H
#define SIVSHM_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

// Success.
#define SIVSHM_OK 0

// The session could not be opened.
#define SIVSHM_OPEN -1

// The session has ended; open a new one.
#define SIVSHM_ENDED -2

// The channel was revoked; renew the end, or close it.
#define SIVSHM_REVOKED -3

// Time is up.
#define SIVSHM_TIMEOUT -4

// The peer broke the channel's protocol; close the channel.
#define SIVSHM_PEER -5

// The peer overwrites slots faster than they are read; try again.
#define SIVSHM_OUTRUN -6

// Bytes do not fit the channel, or the buffer.
#define SIVSHM_TOO_LONG -7

// The host failed.
#define SIVSHM_HOST -8

// An argument is null, no text, no name, or not of this end of the channel.
#define SIVSHM_ARGUMENT -9

// The identity can't be used.
#define SIVSHM_IDENTITY -10

// The handshake with this VM's device process failed.
#define SIVSHM_HANDSHAKE -11

// This VM's device process refuses the channel.
#define SIVSHM_REFUSED_BY_OWN_DEVICE -12

// The device process of the VM at the other end refuses the channel.
#define SIVSHM_REFUSED_BY_PEER_DEVICE -13

// The service at the other end refuses the channel.
#define SIVSHM_REFUSED_BY_PEER -14

// The library refuses the channel: the others do not offer what was asked for.
#define SIVSHM_REFUSED_HERE -15

// The opening was cancelled.
#define SIVSHM_CANCELLED -16

// A slot is not the next one of the producer's; the following call goes on behind it.
#define SIVSHM_BROKEN -17

// The channel's key can't be used; open the channel again.
#define SIVSHM_KEY -18

// As `timeout_ms`: wait for ever.
#define SIVSHM_FOREVER UINT32_MAX

// As `wait`: sleep until the peer rings.
#define SIVSHM_WAIT_INTERRUPT 0

// As `wait`: look again and again.
#define SIVSHM_WAIT_POLL 1

// As `integrity`: what the policy says.
#define SIVSHM_INTEGRITY_ANY 0

// As `integrity`: none.
#define SIVSHM_INTEGRITY_NONE 1

// As `integrity`: CRC-32C.
#define SIVSHM_INTEGRITY_CRC32C 2

// As `integrity`: AES-128-GCM.
#define SIVSHM_INTEGRITY_AEAD 3

// What gives up openings, from any thread.
typedef struct sivshm_cancel sivshm_cancel;

// An end of a channel, of any kind.
typedef struct sivshm_channel sivshm_channel;

// A reading end of a ring.
typedef struct sivshm_consumer sivshm_consumer;

// The identity of a service.
typedef struct sivshm_identity sivshm_identity;

// The writing end of a ring.
typedef struct sivshm_producer sivshm_producer;

// The reading end of a region.
typedef struct sivshm_region_reader sivshm_region_reader;

// The writing end of a region.
typedef struct sivshm_region_writer sivshm_region_writer;

// A session.
typedef struct sivshm_session sivshm_session;

// How to open a channel.
typedef struct {
  // Longest wait for everybody who has to agree, in milliseconds.
  uint32_t timeout_ms;
  // How the end waits for its peer once it is open.
  int wait;
  // How the channel must be protected.
  int integrity;
  // What can give up the opening; may be null.
  const sivshm_cancel *cancel;
} sivshm_open_options;

// A message found in a region.
typedef struct {
  // Its number, from 1.
  uint64_t sequence;
  // Its bytes.
  size_t length;
} sivshm_message;

// A payload that was received.
typedef struct {
  // Number of its slot, from 1.
  uint64_t number;
  // Bytes of the payload.
  size_t length;
  // Slots lost just before this one, because the producer overwrote them.
  uint64_t lost;
} sivshm_received;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The words of the last failure in this thread; empty if there was none. Valid until the next
// call in this thread.
const char *sivshm_last_error(void);

// Opens a session for a service: at `path`, or where this program runs if `path` is null. The
// identity may be freed afterwards.
//
// In a guest, the first channel that is opened makes the library take `SIGBUS`, so that an access
// survives that the other end closes. Signals that are not of its own memory go to whoever had them
// before. A program that installs a handler later keeps the action that `sigaction` gives back, and
// calls its handler, with all three arguments, for every address that it does not know. No thread
// that uses a channel may block the signal. The library can't be unloaded from then on.
//
// # Safety
// `identity` is a live identity; `path` is null or a string; `*session` is writable.
int sivshm_session_open(const sivshm_identity *identity,
                        const char *path,
                        sivshm_session **session);

// Ends a session that no end of a channel uses any more; else it ends with the last of them.
//
// # Safety
// `session` is null or a live session, which is not used again.
void sivshm_session_close(sivshm_session *session);

// Opens this service's end of a channel, once every service at the other end has opened its own:
// `peers` are `count` names of them, `VM/SERVICE` or whole SPIFFE IDs. Null `options` wait 30
// seconds, by interrupt, with any integrity.
//
// # Safety
// `session` is a live session; `channel` is a string; `peers` are `count` strings; `options` is
// null, or readable with a `cancel` that is null or live; `*end` is writable.
int sivshm_channel_open(const sivshm_session *session,
                        const char *channel,
                        const char *const *peers,
                        size_t count,
                        const sivshm_open_options *options,
                        sivshm_channel **end);

// Lets go of an end.
//
// # Safety
// `channel` is null or live, and is not used again.
void sivshm_channel_close(sivshm_channel *channel);

// The writing end of a region. `channel` is gone afterwards, also on failure.
//
// # Safety
// `channel` is live and not used again; `*writer` is writable.
int sivshm_channel_into_region_writer(sivshm_channel *channel, sivshm_region_writer **writer);

// A reading end of a region. `channel` is gone afterwards, also on failure.
//
// # Safety
// `channel` is live and not used again; `*reader` is writable.
int sivshm_channel_into_region_reader(sivshm_channel *channel, sivshm_region_reader **reader);

// The writing end of a ring. `channel` is gone afterwards, also on failure.
//
// # Safety
// `channel` is live and not used again; `*producer` is writable.
int sivshm_channel_into_producer(sivshm_channel *channel, sivshm_producer **producer);

// A reading end of a ring. `channel` is gone afterwards, also on failure.
//
// # Safety
// `channel` is live and not used again; `*consumer` is writable.
int sivshm_channel_into_consumer(sivshm_channel *channel, sivshm_consumer **consumer);

// Makes what gives up openings; `sivshm_cancel_free` frees it.
sivshm_cancel *sivshm_cancel_new(void);

// Ends every opening and renewal that was given `cancel`, now and later. May be called while other
// threads open with it.
//
// # Safety
// `cancel` is null or live.
void sivshm_cancel_now(const sivshm_cancel *cancel);

// Frees what gives up openings; those under way go on.
//
// # Safety
// `cancel` is null or live, and is not used again.
void sivshm_cancel_free(sivshm_cancel *cancel);

// Loads an identity from PEM files: the SVID with its intermediates, its key, the trust bundle
// and, unless `crl` is null, a revocation list.
//
// # Safety
// `svid`, `key` and `bundle` are strings; `crl` is null or a string; `*identity` is writable.
int sivshm_identity_load(const char *svid,
                         const char *key,
                         const char *bundle,
                         const char *crl,
                         sivshm_identity **identity);

// Loads the identity of a service where the system keeps it.
//
// # Safety
// `service` is a string; `*identity` is writable.
int sivshm_identity_named(const char *service, sivshm_identity **identity);

// Frees an identity; sessions that were opened with it stay.
//
// # Safety
// `identity` is null or live, and is not used again.
void sivshm_identity_free(sivshm_identity *identity);

// Opens the writing end of a region, as `sivshm_channel_open`.
//
// # Safety
// As `sivshm_channel_open`.
int sivshm_region_writer_open(const sivshm_session *session,
                              const char *channel,
                              const char *const *peers,
                              size_t count,
                              const sivshm_open_options *options,
                              sivshm_region_writer **writer);

// Lets go of a writing end.
//
// # Safety
// `writer` is null or live, and is not used again.
void sivshm_region_writer_close(sivshm_region_writer *writer);

// Waits for the channel's next epoch, if this end was revoked; else does nothing.
//
// # Safety
// `writer` is live.
int sivshm_region_writer_renew(sivshm_region_writer *writer, uint32_t timeout_ms);

// Bytes that a message can have; 0 for null.
//
// # Safety
// `writer` is null or live.
size_t sivshm_region_writer_capacity(const sivshm_region_writer *writer);

// Waits until every reader has acknowledged the last message.
//
// # Safety
// `writer` is live.
int sivshm_region_writer_wait_seen(sivshm_region_writer *writer, uint32_t timeout_ms);

// Stores bytes of the next message. Readers that have not acknowledged the last one see them
// change.
//
// # Safety
// `writer` is live; `bytes` are `length` readable bytes.
int sivshm_region_writer_prepare(sivshm_region_writer *writer,
                                 size_t offset,
                                 const void *bytes,
                                 size_t length);

// Publishes the region's first `length` bytes and rings the readers that sleep.
//
// # Safety
// `writer` is live.
int sivshm_region_writer_publish(sivshm_region_writer *writer, size_t length);

// Sends a message whole: waits until the last one is acknowledged, stores and publishes.
//
// # Safety
// `writer` is live; `bytes` are `length` readable bytes.
int sivshm_region_writer_write(sivshm_region_writer *writer,
                               const void *bytes,
                               size_t length,
                               uint32_t timeout_ms);

// Opens a reading end of a region, as `sivshm_channel_open`.
//
// # Safety
// As `sivshm_channel_open`.
int sivshm_region_reader_open(const sivshm_session *session,
                              const char *channel,
                              const char *const *peers,
                              size_t count,
                              const sivshm_open_options *options,
                              sivshm_region_reader **reader);

// Lets go of a reading end.
//
// # Safety
// `reader` is null or live, and is not used again.
void sivshm_region_reader_close(sivshm_region_reader *reader);

// Waits for the channel's next epoch, if this end was revoked; else does nothing.
//
// # Safety
// `reader` is live.
int sivshm_region_reader_renew(sivshm_region_reader *reader, uint32_t timeout_ms);

// Waits for a message that was not acknowledged yet.
//
// # Safety
// `reader` is live; `*message` is writable.
int sivshm_region_reader_wait(sivshm_region_reader *reader,
                              uint32_t timeout_ms,
                              sivshm_message *message);

// Copies bytes of a message out. They stay the writer's: judge what was copied, and don't copy
// the same bytes twice.
//
// # Safety
// `reader` is live; `to` are `length` writable bytes.
int sivshm_region_reader_copy_out(sivshm_region_reader *reader,
                                  sivshm_message message,
                                  size_t offset,
                                  void *to,
                                  size_t length);

// Tells the writer that this reader is done with a message.
//
// # Safety
// `reader` is live.
int sivshm_region_reader_acknowledge(sivshm_region_reader *reader, sivshm_message message);

// Receives a message whole: waits, copies, acknowledges. A message longer than `capacity` stays.
//
// # Safety
// `reader` is live; `to` are `capacity` writable bytes; `*length` is writable.
int sivshm_region_reader_read(sivshm_region_reader *reader,
                              void *to,
                              size_t capacity,
                              uint32_t timeout_ms,
                              size_t *length);

// Opens the writing end of a ring, as `sivshm_channel_open`.
//
// # Safety
// As `sivshm_channel_open`.
int sivshm_producer_open(const sivshm_session *session,
                         const char *channel,
                         const char *const *peers,
                         size_t count,
                         const sivshm_open_options *options,
                         sivshm_producer **producer);

// Lets go of a writing end.
//
// # Safety
// `producer` is null or live, and is not used again.
void sivshm_producer_close(sivshm_producer *producer);

// Waits for the channel's next epoch, if this end was revoked; else does nothing.
//
// # Safety
// `producer` is live.
int sivshm_producer_renew(sivshm_producer *producer, uint32_t timeout_ms);

// Bytes that a payload can have; 0 for null.
//
// # Safety
// `producer` is null or live.
uint32_t sivshm_producer_slot_bytes(const sivshm_producer *producer);

// Stages a payload for the next publication; `*staged` says whether there was a free slot.
//
// # Safety
// `producer` is live; `bytes` are `length` readable bytes; `*staged` is writable.
int sivshm_producer_stage(sivshm_producer *producer,
                          const void *bytes,
                          size_t length,
                          bool *staged);

// Publishes every staged payload and rings the consumers that sleep.
//
// # Safety
// `producer` is live.
int sivshm_producer_publish(sivshm_producer *producer);

// Sends one payload: waits for a free slot if there is none, stages and publishes.
//
// # Safety
// `producer` is live; `bytes` are `length` readable bytes.
int sivshm_producer_send(sivshm_producer *producer,
                         const void *bytes,
                         size_t length,
                         uint32_t timeout_ms);

// Opens a reading end of a ring, as `sivshm_channel_open`.
//
// # Safety
// As `sivshm_channel_open`.
int sivshm_consumer_open(const sivshm_session *session,
                         const char *channel,
                         const char *const *peers,
                         size_t count,
                         const sivshm_open_options *options,
                         sivshm_consumer **consumer);

// Lets go of a reading end.
//
// # Safety
// `consumer` is null or live, and is not used again.
void sivshm_consumer_close(sivshm_consumer *consumer);

// Waits for the channel's next epoch, if this end was revoked; else does nothing.
//
// # Safety
// `consumer` is live.
int sivshm_consumer_renew(sivshm_consumer *consumer, uint32_t timeout_ms);

// Receives one payload, waiting for it if there is none. Its slot is given back by
// `sivshm_consumer_acknowledge`, or when a later call waits.
//
// # Safety
// `consumer` is live; `to` are `capacity` writable bytes; `*received` is writable.
int sivshm_consumer_receive(sivshm_consumer *consumer,
                            void *to,
                            size_t capacity,
                            uint32_t timeout_ms,
                            sivshm_received *received);

// Gives every slot received so far back to the producer.
//
// # Safety
// `consumer` is live.
int sivshm_consumer_acknowledge(sivshm_consumer *consumer);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SIVSHM_H */
