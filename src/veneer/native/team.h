/* The threads of one step: they share work out, and wait for each other.
 *
 * A step of a small model has some hundred places at which its threads wait for each other, most of them for less than
 * a microsecond. The OpenMP runtime's own waiting is not made for that everywhere: GNU's counts the threads of all
 * pools of the program, and once they are more than the processors (a model is loaded on one thread, and served on
 * another), each wait soon sleeps in the system. Two threads then took 1.7 times as long for a step of eight rows. So
 * the runtime starts the threads, and between two operations they wait here: awake first, then handing the processor
 * over to any process that wants it.
 */
#ifndef VENEER_TEAM_H
#define VENEER_TEAM_H

#include <omp.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define AWAKE 2000 /* looks at the others before the processor is handed over: 20 to 100 microseconds */

/* A thread's part of the current work, in a cache line of its own, so that threads which take from other parts do not
 * slow it down. */
typedef struct {
    _Alignas(64) int taken;
} Share;

typedef struct {
    _Alignas(64) int arrived;
    _Alignas(64) int round;
    Share shares[]; /* of each thread */
} Team;

/* One thread of a team. */
typedef struct {
    Team *team;
    int number, threads;
    float *work; /* working memory of its own */
} Member;

/* A team of at most `threads` threads, to be freed; NULL if memory ran out. */
static inline Team *new_team(int threads) {
    const size_t bytes = sizeof(Team) + (size_t)threads * sizeof(Share);
    Team *team = aligned_alloc(64, bytes);
    if (team != NULL) memset(team, 0, bytes);
    return team;
}

/* The calling thread of a parallel region, with `each` floats of the working memory. */
static inline Member member_of(Team *team, float *work, int64_t each) {
    const int number = omp_get_thread_num();
    return (Member){team, number, omp_get_num_threads(), work + number * each};
}

static inline void rest(void) {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* The part of `count` pieces of work that is a thread's: from share_start up to share_start of the next one. */
static inline int share_of(const Member *me, int number, int count) { return (int)((int64_t)count * number / me->threads); }
static inline int share_start(const Member *me, int count) { return share_of(me, me->number, count); }
static inline int share_stop(const Member *me, int count) { return share_of(me, me->number + 1, count); }

/* The next of `count` pieces of work, one that nobody has taken since the team last met, or `count` if there is none.
 * Each thread goes through its own part in order, so that what it has fetched ahead is what it comes to; then it helps
 * the others with theirs. */
static inline int take(const Member *me, int count) {
    for (int i = 0; i < me->threads; i++) {
        const int whose = (me->number + i) % me->threads, stop = share_of(me, whose + 1, count);
        const int found = share_of(me, whose, count) + __atomic_fetch_add(&me->team->shares[whose].taken, 1, __ATOMIC_RELAXED);
        if (found < stop) return found;
    }
    return count;
}

/* Wait until all threads are here. What they wrote before is seen by all afterwards. */
static inline void meet(const Member *me) {
    Team *team = me->team;
    const int round = __atomic_load_n(&team->round, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&team->arrived, 1, __ATOMIC_ACQ_REL) == me->threads) {
        __atomic_store_n(&team->arrived, 0, __ATOMIC_RELAXED);
        for (int i = 0; i < me->threads; i++) __atomic_store_n(&team->shares[i].taken, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&team->round, round + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int looks = 0; __atomic_load_n(&team->round, __ATOMIC_ACQUIRE) == round; looks++)
        if (looks < AWAKE)
            rest();
        else
            sched_yield();
}

#endif
