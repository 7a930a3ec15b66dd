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

// The channel was revoked; open it again, or end.
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

// An argument is null, no text, no channel name, or not of this kind of channel.
#define SIVSHM_ARGUMENT -9

// As `wait`: sleep until the peer rings.
#define SIVSHM_WAIT_INTERRUPT 0

// As `wait`: look again and again.
#define SIVSHM_WAIT_POLL 1

// As `timeout_ms`: wait for ever.
#define SIVSHM_FOREVER UINT32_MAX

// A reading end of a ring.
typedef struct sivshm_consumer sivshm_consumer;

// The writing end of a ring.
typedef struct sivshm_producer sivshm_producer;

// The reading end of a region.
typedef struct sivshm_region_reader sivshm_region_reader;

// The writing end of a region.
typedef struct sivshm_region_writer sivshm_region_writer;

// A session.
typedef struct sivshm_session sivshm_session;

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

// Opens a session: at `path`, or where this program runs if `path` is null.
//
// # Safety
// `path` is null or a string. `*session` is writable.
int sivshm_session_open(const char *path, sivshm_session **session);

// Ends a session that no end of a channel uses any more; else it ends with the last of them.
//
// # Safety
// `session` is null or a live session, which is not used again.
void sivshm_session_close(sivshm_session *session);

// Takes the writing end of a region, once every reader's VM is there.
//
// # Safety
// `session` is a live session; `channel` is a string; `*writer` is writable.
int sivshm_region_writer_open(sivshm_session *session,
                              const char *channel,
                              int wait,
                              uint32_t timeout_ms,
                              sivshm_region_writer **writer);

// Lets go of a writing end.
//
// # Safety
// `writer` is null or live, and is not used again.
void sivshm_region_writer_close(sivshm_region_writer *writer);

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

// Takes the reading end of a region, once its writer's VM is there.
//
// # Safety
// `session` is a live session; `channel` is a string; `*reader` is writable.
int sivshm_region_reader_open(sivshm_session *session,
                              const char *channel,
                              int wait,
                              uint32_t timeout_ms,
                              sivshm_region_reader **reader);

// Lets go of a reading end.
//
// # Safety
// `reader` is null or live, and is not used again.
void sivshm_region_reader_close(sivshm_region_reader *reader);

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

// Takes the writing end of a ring, once every reader's VM is there.
//
// # Safety
// `session` is a live session; `channel` is a string; `*producer` is writable.
int sivshm_producer_open(sivshm_session *session,
                         const char *channel,
                         int wait,
                         uint32_t timeout_ms,
                         sivshm_producer **producer);

// Lets go of a writing end.
//
// # Safety
// `producer` is null or live, and is not used again.
void sivshm_producer_close(sivshm_producer *producer);

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

// Takes a reading end of a ring, once its writer's VM is there.
//
// # Safety
// `session` is a live session; `channel` is a string; `*consumer` is writable.
int sivshm_consumer_open(sivshm_session *session,
                         const char *channel,
                         int wait,
                         uint32_t timeout_ms,
                         sivshm_consumer **consumer);

// Lets go of a reading end.
//
// # Safety
// `consumer` is null or live, and is not used again.
void sivshm_consumer_close(sivshm_consumer *consumer);

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
