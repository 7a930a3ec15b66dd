/*
 * Model of the service handshake (docs/service-handshake.md) for the checker spin.
 * Run it by `cargo xtask model`; README.md says what stands for what and what is left out.
 *
 * Stands for:
 *   handshake/src/service/                  what services and device processes sign and check
 *   device/backend/src/run/mediation/       when a device process passes a message or installs a grant
 *
 * Four parties: services A and B, each behind the device process of its own VM. The intruder owns all that
 * lies between the two device processes, one device process or both (`liar`), and one service's key
 * (`stolen`). It keeps everything it ever saw, over a restart of the host too.
 *
 * Messages are terms. A message that an honest session takes is built from what that session requires of
 * it; it can be taken if the intruder can make or has seen each signature and each MAC in it.
 */

#define A 0
#define B 1
#define C 2             /* a second reader of channel X; runs no session, its key can be the intruder's */
#define X 0             /* channel written by A, read by B and C */
#define Y 1             /* channel written by B, read by A */
#define READS  0
#define WRITES 1
#define BOTH   2
#define INTRUDER 4      /* nonce and X25519 key of the intruder's own making */

/* Sessions: 0 and 1 of A, 2 and 3 of B; any may write or read, with any peer, on any channel. */
#define SESSIONS 4
#define owner(i) ((i) / 2)
#define SOME(holds) (holds(0) || holds(1) || holds(2) || holds(3))

/* Nonce and X25519 public key of a session: one value, since each session makes both anew. */
#ifdef NO_NONCE
#define fresh(i) owner(i)
#else
#define fresh(i) (i)
#endif

/* A whole open. `told` is what a service knows by its device process alone: the host boot, and with it
   contract, serial, kind and slice generation, which are signed and compared in the same way. */
#define open_of(f, told, channel, role, writer, reader) \
    ((f) | (told) << 3 | (channel) << 4 | (role) << 5 | (writer) << 6 | (reader) << 8)
#define open_fresh(o)   ((o) & 7)
#define open_told(o)    ((o) >> 3 & 1)
#define open_channel(o) ((o) >> 4 & 1)
#define open_role(o)    ((o) >> 5 & 1)
#define open_writer(o)  ((o) >> 6 & 3)
#define open_reader(o)  ((o) >> 8 & 3)

/* An accept, beside the open that it answers. */
#define accept_of(f, role, reader, writer) ((f) | (role) << 3 | (reader) << 4 | (writer) << 6)
#define accept_fresh(a) ((a) & 7)

/* What signatures, MACs and the hashes in them cover of each. */
#if defined(IDENTITY_UNSIGNED)          /* neither ids nor chains */
#define OPEN_COVERED   (1023 - (15 << 6))
#define ACCEPT_COVERED (255 - (15 << 4))
#elif defined(ROLE_UNBOUND)
#define OPEN_COVERED   (1023 - (1 << 5))
#define ACCEPT_COVERED (255 - (1 << 3))
#elif defined(KEY_UNSIGNED)             /* neither X25519 keys nor nonces */
#define OPEN_COVERED   (1023 - 7)
#define ACCEPT_COVERED (255 - 7)
#else
#define OPEN_COVERED   1023
#define ACCEPT_COVERED 255
#endif
#define same_open(o, p)   (((o) & OPEN_COVERED) == ((p) & OPEN_COVERED))
#define same_accept(a, b) (((a) & ACCEPT_COVERED) == ((b) & ACCEPT_COVERED))

#define IDLE      0
#define OPENED    1     /* writer: its open is out */
#define CONFIRMED 2     /* writer: verified the accept, its confirm is out */
#define FINISHED  3     /* writer: verified the agreed; the channel is open */
#define ACCEPTED  4     /* reader: verified the open, its accept is out */
#define AGREED    5     /* reader: verified the confirm, its agreed is out; its device process installs */

typedef Session {
    byte step;
    bit boot;           /* host boot that it runs in */
    short open;         /* made by it, or taken by it */
    byte accept         /* taken by it, or made by it */
}
Session session[SESSIONS];
bit boot;               /* the host's boot now */
byte liar;              /* whose device process is the intruder's: A, B or BOTH */
byte stolen;            /* whose key the intruder has */

/* Scratch of single steps, no state. */
hidden byte peer, f, channel, told, role;
hidden short taken;
hidden byte answer;

#define open(i)      session[i].open
#define accept(i)    session[i].accept
#define wrote(i)     (session[i].step >= OPENED && session[i].step <= FINISHED)
#define confirmed(i) (session[i].step == CONFIRMED || session[i].step == FINISHED)
#define accepted(i)  (session[i].step >= ACCEPTED)
#define agreed(i)    (session[i].step == AGREED)
#define finished(i)  (session[i].step == FINISHED || session[i].step == AGREED)
#define peer_of(i)   (wrote(i) -> open_reader(open(i)) : open_writer(open(i)))
#define alive(i)     (session[i].boot == boot)
/* Sessions of a service are alike: the second starts after the first, and nothing is lost. */
#define may_start(i) (session[i].step == IDLE && ((i) % 2 == 0 || session[(i) - 1].step != IDLE))
#define honest(i)    (liar != owner(i) && liar != BOTH)

/* The policy that an honest device process holds every open against. */
#define planned(o) \
    (open_role(o) == WRITES && \
     ((open_channel(o) == X && open_writer(o) == A && open_reader(o) != A) || \
      (open_channel(o) == Y && open_writer(o) == B && open_reader(o) == A)))

/* What the intruder can put before a session. */
#define shows(i)        (session[i].step != IDLE && fresh(i) == f)
#define known           (f == INTRUDER || SOME(shows))
#define signed_open(i)  (wrote(i) && owner(i) == peer && same_open(open(i), taken))
#define open_comes      (known && (stolen == peer || SOME(signed_open)))
/* The MAC key follows from both X25519 keys: who made neither needs an honest end's MAC over the same. */
#define maced_accept(i)  (accepted(i) && same_open(open(i), taken) && same_accept(accept(i), answer))
#define signed_accept(i) (maced_accept(i) && owner(i) == peer)
#define accept_comes \
    (known && (stolen == peer || SOME(signed_accept)) && (f == INTRUDER || SOME(maced_accept)))
#define maced_confirm(i)  (confirmed(i) && same_open(open(i), taken) && same_accept(accept(i), answer))
#define signed_confirm(i) (maced_confirm(i) && owner(i) == peer)
#ifdef NO_CONFIRM
#define confirm_comes true
#else
#define confirm_comes \
    ((stolen == peer || SOME(signed_confirm)) && \
     (open_fresh(taken) == INTRUDER || SOME(maced_confirm)))
#endif

#ifdef AGREED_UNPROVED
#define agreed_comes true
#else
#define maced_agreed(i) (agreed(i) && same_open(open(i), taken) && same_accept(accept(i), answer))
#define agreed_comes    (accept_fresh(answer) == INTRUDER || SOME(maced_agreed))
#endif

/* What must hold when session `me` has the channel open with a peer whose key is its own. */
#define here(i)       (owner(i) == peer && session[i].boot == session[me].boot)
#define named(i)      (open_channel(open(i)) == open_channel(open(me)) && \
                       open_writer(open(i)) == open_writer(open(me)) && \
                       open_reader(open(i)) == open_reader(open(me)))
#define consents(i)   (here(i) && session[i].step != IDLE && wrote(i) != wrote(me) && named(i))
#define has_accepted(i) (here(i) && accepted(i) && open(i) == open(me) && accept(i) == accept(me))
#define has_agreed(i)   (has_accepted(i) && agreed(i))
#ifdef NO_CONFIRM       /* without it, ask no more than that the writer opened */
#define has_confirmed(i) (here(i) && wrote(i) && open(i) == open(me))
#else
#define has_confirmed(i) (here(i) && confirmed(i) && open(i) == open(me) && accept(i) == accept(me))
#endif
#define used_twice(i) ((i) != me && finished(i) && owner(i) == owner(me) && \
                       wrote(i) == wrote(me) && open(i) == open(me))
#define theirs        (wrote(me) -> accept_fresh(accept(me)) : open_fresh(open(me)))

#define say(words) \
    printf("%c%d ", 'A' + owner(me), me % 2 + 1); \
    printf(words, 'X' + open_channel(open(me)), 'A' + peer)

#define must(holds, promise) \
    if \
    :: holds \
    :: else -> printf("BROKEN: "); printf(promise); assert(false) \
    fi

inline judge() {
#ifdef COMPLETES            /* no promise: shows that the model lets an exchange end at all */
    must(!wrote(me) || !SOME(has_agreed), "(as it has to be) both ends have the channel open\n");
#endif
    if
    :: stolen == peer
    :: else ->
        must(theirs != INTRUDER, "the intruder has the channel's keys\n");
        must(!honest(me) || SOME(consents), "a grant is installed without the peer's consent in this boot\n");
        must(!wrote(me) || SOME(has_accepted), "the writer finished and no reader accepted the same in this boot\n");
        must(!wrote(me) || SOME(has_agreed), "the writer finished and no reader has verified its confirm\n");
        must(wrote(me) || SOME(has_confirmed), "the reader finished and no writer agreed to the same in this boot\n");
        must(!SOME(used_twice), "one open made two channels\n")
    fi
}

inline choose() {
    if :: peer = 1 - owner(me) :: peer = C fi;
    if :: channel = X :: channel = Y fi
}

inline choose_fresh() {
    if :: f = 0 :: f = 1 :: f = 2 :: f = 3 :: f = INTRUDER fi
}

proctype service(byte me) {
end:
    do
    :: atomic { may_start(me) ->            /* want, terms, open */
        choose();
        if :: told = boot :: told = 0 fi;
        taken = open_of(fresh(me), told, channel, WRITES, owner(me), peer);
        if
        :: !honest(me) || (told == boot && planned(taken)) ->
            session[me].step = OPENED; session[me].boot = boot; open(me) = taken;
            say("opens %c to %c\n")
        :: else
        fi }
    :: atomic { may_start(me) ->            /* want, terms, open taken, accept */
        choose(); choose_fresh();
        if :: role = READS :: role = WRITES fi;
        if :: told = boot :: told = 0 fi;
        taken = open_of(f, told, channel, 1 - role, peer, owner(me));
        if
        :: (!honest(me) || (told == boot && planned(taken))) && open_comes ->
            session[me].step = ACCEPTED; session[me].boot = boot; open(me) = taken;
            accept(me) = accept_of(fresh(me), role, owner(me), peer);
            if
            :: role == READS -> say("is to read %c, takes an open as by %c and accepts it\n")
            :: else -> say("is to write %c, takes an open as by %c and accepts it\n")
            fi
        :: else
        fi }
    :: atomic { session[me].step == OPENED && alive(me) ->      /* accept taken, confirm */
        choose_fresh(); taken = open(me); peer = peer_of(me);
        answer = accept_of(f, READS, peer, owner(me));
        if
        :: accept_comes ->
            session[me].step = CONFIRMED; accept(me) = answer;
            say("verifies an accept of %c as by %c and confirms it\n")
        :: else
        fi }
    :: atomic { session[me].step == CONFIRMED && alive(me) ->   /* agreed taken */
        taken = open(me); answer = accept(me); peer = peer_of(me);
        if
        :: agreed_comes ->
            session[me].step = FINISHED;
            say("has %c open with %c\n"); judge()
        :: else
        fi }
    :: atomic { session[me].step == ACCEPTED && alive(me) ->    /* confirm taken, agreed, installed */
        taken = open(me); answer = accept(me); peer = peer_of(me);
        if
        :: confirm_comes ->
            session[me].step = AGREED;
            say("has %c open with %c\n"); judge()
        :: else
        fi }
    od
}

init {
    atomic {
        if
        :: liar = A
        :: liar = B
#ifndef ONE_LIAR            /* attacks are looked for with one, promises hold with both */
        :: liar = BOTH
#endif
        fi;
        if :: stolen = A :: stolen = B :: stolen = C fi;
        printf("the intruder has the key of %c and is the device process of ", 'A' + stolen);
        if :: liar == BOTH -> printf("both\n") :: else -> printf("%c\n", 'A' + liar) fi;
        run service(0); run service(1); run service(2); run service(3)
    }
    atomic { boot = 1; printf("the host restarts\n") }
}
