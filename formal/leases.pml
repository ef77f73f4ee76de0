/*
 * Epochs, leases, release and reconcile: two scheduler processes, one or two nodes, one store. A script is one atomic
 * step, as in the store. docs/formal-model.md says which step stands for which script, what is left out, and how it is run.
 *
 * Faults on purpose, one at a time; each must be found:
 *   NO_FENCING               a call is obeyed whatever the epoch of its session
 *   EPOCH_RESTARTS           the epoch of an expired node is forgotten
 *   RELEASE_REMOVES_AT_ONCE  a socket that closes takes its node out of its pool
 *   NO_SUSPENSION            reconcile trusts leases from before it was away
 *   NO_INSTANCE_GRACE        nodes of a dead process are expired when their lease ends
 *   GRACE_REPEATED           they get the grace again whenever it ends
 */
#ifndef NODES
#define NODES 2
#endif
#define PROCESSES 2
#define NOWHERE   PROCESSES
#if NODES == 1
#define LEASE      4 /* ticks */
#define GRACE      2
#define LAST_EPOCH 3
#define OUTAGES    1
#define CRASHES    1
#else
#define LEASE      3
#define GRACE      1
#define LAST_EPOCH 2
#define OUTAGES    0
#define CRASHES    0
#endif
#define INTERVAL   1 /* a node in order is heard that often. INTERVAL + LEASE / 2 < LEASE, as with 15 s and 45 s */

#define K (p * NODES + n) /* the socket of node n at process p */
#define larger(a, b)  ((a) > (b) -> (a) : (b))
#define smaller(a, b) ((a) < (b) -> (a) : (b))

#define READY        1 /* status */
#define OFFLINE      2
#define LOST         3
#define REGISTRATION 1 /* calls */
#define HEARTBEAT    2
#define RESUMPTION   3
#define RELEASE      4

/* The store. */
bit  member[NODES], in_ready[NODES];
byte epoch[NODES], status[NODES], lease[NODES], owner[NODES];
byte instance[PROCESSES]; /* leases of the processes */
byte epoch_floor, since, suspended;
bit  store_up = 1;

/* The processes: for each node a socket, the epoch of its session, and the call that is on its way. */
bit  alive[PROCESSES], open[PROCESSES * NODES];
byte known[PROCESSES * NODES], call[PROCESSES * NODES];

/* The nodes: where the newest socket leads. */
byte at[NODES];

/* What only the checks know. */
byte newest[NODES];  /* the highest epoch that the node was ever given */
byte unheard[NODES]; /* ticks, as far as INTERVAL */
byte away[NODES];    /* ticks since the newest socket of a live node closed, as far as GRACE */
byte quiet[NODES];   /* ticks of upkeep in which the store heard nothing of the node; with one node only */
bit  orphan[NODES];  /* its socket went with its process, and it has not been back */
byte outages, crashes;

byte p, n; /* the step's own; 0 between steps */

/* Its newest socket is open, and the store has its session. */
#define is_live (at[n] != NOWHERE && alive[at[n]] && open[at[n] * NODES + n] && known[at[n] * NODES + n] > 0 \
                 && member[n] && epoch[n] == known[at[n] * NODES + n] && status[n] == READY)

#ifdef NO_FENCING
#define is_its_session member[n]
#else
#define is_its_session (member[n] && epoch[n] == known[K])
#endif

inline give(given)
{
    known[K] = given; member[n] = 1; epoch[n] = known[K]; status[n] = READY; in_ready[n] = 1; lease[n] = LEASE;
    owner[n] = p; newest[n] = larger(newest[n], known[K]); unheard[n] = 0; quiet[n] = 0; orphan[n] = 0
}

inline close_it() /* the process closes the socket: it has been told that its session has ended */
{
    open[K] = 0; known[K] = 0;
    if :: at[n] == p -> at[n] = NOWHERE; away[n] = GRACE :: else -> skip fi
}

/* upsert_node_to_pool.lua, mode new */
inline upsert_new()
{
    if
    :: larger(epoch_floor, epoch[n]) >= LAST_EPOCH -> close_it() /* the model ends here; epochs do not */
    :: else ->
        /* Who comes back within the grace has never been out. */
        assert(newest[n] == 0 || away[n] >= GRACE || member[n]);
        assert(larger(epoch_floor, epoch[n]) >= newest[n]); /* no epoch is given twice, and none that is lower */
        known[K] = larger(epoch_floor, epoch[n]);
        give(known[K] + 1)
    fi
}

/* upsert_node_to_pool.lua, mode resume */
inline upsert_resume()
{
    if
    :: member[n] && epoch[n] == known[K] && status[n] != OFFLINE -> give(known[K])
    :: member[n] && (epoch[n] > known[K] || epoch[n] == known[K] && status[n] == OFFLINE) -> close_it()
    :: else ->
        assert(known[K] <= epoch_floor); /* only a store that has lost data would know less: it is left out */
        if
        :: epoch_floor < LAST_EPOCH -> give(epoch_floor + 1)
        :: else -> close_it()
        fi
    fi
}

/* touch_nodes.lua */
inline touch()
{
    if
    :: is_its_session && status[n] == READY ->
        assert(known[K] == newest[n]); /* nothing stale is obeyed */
        lease[n] = LEASE; unheard[n] = 0; quiet[n] = 0
    :: else ->
        if
        :: member[n] && (epoch[n] > known[K] || epoch[n] == known[K] && status[n] == OFFLINE) -> close_it()
        :: else -> call[K] = RESUMPTION
        fi
    fi
}

/* release_node.lua */
inline release_it()
{
    if
    :: is_its_session && status[n] != OFFLINE ->
        assert(known[K] == newest[n]); /* the close of an old socket touches nobody */
        status[n] = OFFLINE; in_ready[n] = 0; lease[n] = smaller(lease[n], GRACE);
#ifdef RELEASE_REMOVES_AT_ONCE
        remove_it()
#endif
    :: else -> skip
    fi;
    known[K] = 0
}

inline remove_it()
{
#ifndef EPOCH_RESTARTS
    epoch_floor = larger(epoch_floor, epoch[n]);
#endif
    member[n] = 0; in_ready[n] = 0; epoch[n] = 0; status[n] = 0; lease[n] = 0; owner[n] = 0; quiet[n] = 0; orphan[n] = 0
}

/* reconcile.lua, the part that expires */
inline reconcile()
{
    if
#ifndef NO_SUSPENSION
    :: since > LEASE / 2 -> suspended = LEASE
#endif
    :: else -> skip
    fi;
    since = 0;
    do
    :: n < NODES ->
        if
        :: member[n] && lease[n] == 0 && suspended == 0 ->
            if
#ifndef NO_INSTANCE_GRACE
#ifdef GRACE_REPEATED
            :: status[n] != OFFLINE && instance[owner[n]] == 0 ->
#else
            :: status[n] == READY && instance[owner[n]] == 0 ->
#endif
                assert(!is_live); /* who is heard in time is not taken for lost */
                status[n] = LOST; in_ready[n] = 0; lease[n] = GRACE
#endif
            :: else ->
                assert(!is_live); /* who is heard in time is not expired */
                assert(!orphan[n] || status[n] == LOST); /* whose process has died has had the grace */
                remove_it()
            fi
        :: else -> skip
        fi;
        assert(quiet[n] <= LEASE + GRACE || !member[n]); /* who is gone is gone in the end */
        n++
    :: else -> break
    od
}

/* Time passes. What is assumed of it: a live node is heard in each interval while the store is there, and a process
 * that lives renews its own lease. Nothing is assumed of any other call, nor of reconcile. */
inline tick()
{
    since = (since > LEASE / 2 -> since : since + 1);
    do
    :: n < NODES ->
        quiet[n] = (NODES == 1 && member[n] && store_up && since == 1 && suspended == 0 && quiet[n] <= LEASE + GRACE
                    -> quiet[n] + 1 : quiet[n]);
        lease[n] = (lease[n] > 0 -> lease[n] - 1 : 0);
        unheard[n] = (is_live && unheard[n] < INTERVAL -> unheard[n] + 1 : unheard[n]);
        away[n] = (away[n] < GRACE -> away[n] + 1 : GRACE);
        n++
    :: else -> break
    od;
    suspended = (suspended > 0 -> suspended - 1 : 0);
    do
    :: p < PROCESSES ->
        instance[p] = (store_up && alive[p] -> LEASE / 2 : (instance[p] > 0 -> instance[p] - 1 : 0)); p++
    :: else -> break
    od
}

#define is_due(m) (at[m] != NOWHERE && alive[at[m]] && open[at[m] * NODES + m] && known[at[m] * NODES + m] > 0 \
                   && unheard[m] >= INTERVAL)
#if NODES > 1
#define may_tick (!store_up || !(is_due(0) || is_due(1)))
#else
#define may_tick (!store_up || !is_due(0))
#endif

inline some_socket()
{
    if :: p = 0 :: p = 1 fi;
#if NODES > 1
    if :: n = 0 :: n = 1 fi
#else
    n = 0
#endif
}

inline is_consistent()
{
    n = 0;
    do
    :: n < NODES -> assert(!in_ready[n] || (member[n] && status[n] == READY)); assert(epoch[n] <= newest[n]); n++
    :: else -> break
    od
}

active proctype World()
{
    d_step {
        alive[0] = 1; alive[1] = 1; instance[0] = LEASE / 2; instance[1] = LEASE / 2;
        at[0] = NOWHERE; away[0] = GRACE;
#if NODES > 1
        at[1] = NOWHERE; away[1] = GRACE
#endif
    }
    do
    /* A node connects. A former socket of its, at the other process, may stay open for ever. */
    :: atomic { some_socket();
        if
        :: alive[p] && !open[K] && call[K] == 0 && !(at[n] != NOWHERE && at[n] == p) ->
            open[K] = 1; known[K] = 0; call[K] = REGISTRATION; at[n] = p
        :: else -> skip
        fi; p = 0; n = 0 }
    /* A heartbeat arrives: on the newest socket, or late on an old one. */
    :: atomic { some_socket();
        if :: alive[p] && open[K] && known[K] > 0 && call[K] == 0 -> call[K] = HEARTBEAT :: else -> skip fi;
        p = 0; n = 0 }
    /* A socket closes. */
    :: atomic { some_socket();
        if
        :: alive[p] && open[K] && known[K] > 0 && call[K] == 0 ->
            if
            :: at[n] == p -> away[n] = (is_live && lease[n] >= GRACE -> 0 : GRACE); at[n] = NOWHERE
            :: else -> skip
            fi;
            open[K] = 0; call[K] = RELEASE
        :: else -> skip
        fi; p = 0; n = 0 }
    /* The store executes a call, however late. */
    :: atomic { store_up -> some_socket();
        if
        :: call[K] == REGISTRATION -> call[K] = 0; upsert_new()
        :: call[K] == HEARTBEAT -> call[K] = 0; touch()
        :: call[K] == RESUMPTION -> call[K] = 0; upsert_resume()
        :: call[K] == RELEASE -> call[K] = 0; release_it()
        :: else -> skip
        fi; is_consistent(); p = 0; n = 0 }
    :: atomic { store_up && (alive[0] || alive[1]) -> reconcile(); is_consistent(); n = 0 }
    :: atomic { may_tick -> tick(); p = 0; n = 0 }
    /* A process dies: its sockets with it, and its calls, if the store does not have them yet. */
    :: atomic { crashes < CRASHES -> crashes++;
        do
        :: n < NODES ->
            orphan[n] = (at[n] == 0 && is_live -> 1 : orphan[n]);
            if :: at[n] == 0 -> at[n] = NOWHERE; away[n] = GRACE :: else -> skip fi;
            open[n] = 0; known[n] = 0; call[n] = 0; n++
        :: else -> break
        od; alive[0] = 0; n = 0 }
    :: atomic { store_up && outages < OUTAGES -> outages++; store_up = 0 }
    :: atomic { !store_up -> store_up = 1 }
    od
}
