/* LD_PRELOAD: a process that waits a short time for a long one. tests/fast_clock.py builds it and says how it is used.

FAST_CLOCK   N: each sleep, and each poll for what others send, takes 1/N of its time. CLOCK_MONOTONIC then goes on as if
             it had taken all of it. What the process computes takes the time that it takes.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define SECOND 1000000000LL
#define EPOCH 1000000000LL /* seconds; a deadline beyond them is of CLOCK_REALTIME, which stays as it is */

static long long speed = 1;
static _Atomic long long skipped; /* nanoseconds by which the clock is ahead */

static int (*real_gettime)(clockid_t, struct timespec *);
static int (*real_sleep)(clockid_t, int, const struct timespec *, struct timespec *);
static int (*real_poll)(struct pollfd *, nfds_t, int);
static int (*real_cond)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_clock_cond)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
static int (*real_sem)(sem_t *, clockid_t, const struct timespec *);

__attribute__((constructor)) static void setup(void) {
    const char *text = getenv("FAST_CLOCK");
    if (text && atoll(text) > 0) speed = atoll(text);
    real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_sleep = dlsym(RTLD_NEXT, "clock_nanosleep");
    real_poll = dlsym(RTLD_NEXT, "poll");
    real_clock_cond = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
    real_sem = dlsym(RTLD_NEXT, "sem_clockwait");
    /* x86-64 has an older one too, which dlsym may find. */
    real_cond = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real_cond) real_cond = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
}

static long long ns(const struct timespec *time) { return time->tv_sec * SECOND + time->tv_nsec; }

static struct timespec timespec_of(long long ns) {
    return (struct timespec){.tv_sec = ns / SECOND, .tv_nsec = ns % SECOND};
}

static long long real_now(void) {
    struct timespec now;
    real_gettime(CLOCK_MONOTONIC, &now);
    return ns(&now);
}

/* Several threads wait at once: the clock goes on to the latest end that was reached, not by the sum of all waits. */
static void reach(long long end) {
    long long ahead = end - real_now(), had = atomic_load(&skipped);
    while (ahead > had && !atomic_compare_exchange_weak(&skipped, &had, ahead)) {}
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real_gettime) setup(); /* another library's constructor may come first */
    int result = real_gettime(clock, now);
    if (result == 0 && clock == CLOCK_MONOTONIC) *now = timespec_of(ns(now) + atomic_load(&skipped));
    return result;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *time, struct timespec *left) {
    if (clock != CLOCK_MONOTONIC || flags != TIMER_ABSTIME) return real_sleep(clock, flags, time, left);
    long long end = ns(time), now = real_now() + atomic_load(&skipped);
    if (end <= now) return 0;
    struct timespec shorter = timespec_of((end - now + speed - 1) / speed);
    int result = real_sleep(CLOCK_MONOTONIC, 0, &shorter, NULL);
    if (result == 0) reach(end);
    return result;
}

int poll(struct pollfd *files, nfds_t count, int timeout) {
    if (timeout <= 0) return real_poll(files, count, timeout);
    long long start = real_now(), ahead = atomic_load(&skipped);
    int result = real_poll(files, count, (timeout + speed - 1) / speed);
    reach(start + ahead + (real_now() - start) * speed);
    return result;
}

/* The deadlines of these come from the clock above, and the kernel's has not skipped anything. */
static struct timespec as_the_kernel_has_it(const struct timespec *end) {
    return end->tv_sec > EPOCH ? *end : timespec_of(ns(end) - atomic_load(&skipped));
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *end) {
    struct timespec then = as_the_kernel_has_it(end);
    return real_cond(condition, mutex, &then);
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock, const struct timespec *end) {
    struct timespec then = as_the_kernel_has_it(end);
    return real_clock_cond(condition, mutex, clock, &then);
}

int sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *end) {
    struct timespec then = as_the_kernel_has_it(end);
    return real_sem(semaphore, clock, &then);
}
