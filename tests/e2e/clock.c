/* Preloaded into the processes of a run: a wall clock that jumps by CLOCK_JUMP_S seconds as soon as the file CLOCK_JUMPED
 * exists. All that reads or waits for CLOCK_REALTIME is told alike, as if the clock of the machine had been set. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static time_t jump(void) {
  static int jumped;
  const char *file = getenv("CLOCK_JUMPED"), *seconds = getenv("CLOCK_JUMP_S");
  if (!jumped && file && access(file, F_OK) == 0) jumped = 1;
  return jumped && seconds ? atol(seconds) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = syscall(SYS_clock_gettime, clock, now);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += jump();
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *now) {
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  if (now) *now = precise.tv_sec;
  return precise.tv_sec;
}

/* Waits until a time of the wall clock. The kernel doesn't know of the jump, and so it is asked again every 50 ms: a wait
 * that is under way ends early, or goes on for longer, as it would if the clock had been set. */
static int is_past(const struct timespec *until) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec > until->tv_sec || (now.tv_sec == until->tv_sec && now.tv_nsec >= until->tv_nsec);
}

static struct timespec soon(void) {
  struct timespec now;
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
  now.tv_nsec += 50000000;
  if (now.tv_nsec >= 1000000000) now.tv_sec++, now.tv_nsec -= 1000000000;
  return now;
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
  static int (*real)(sem_t *, const struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "sem_timedwait");
  for (;;) {
    struct timespec next = soon();
    int failed = real(semaphore, &next);
    if (!failed || errno != ETIMEDOUT || is_past(until)) return failed;
  }
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
  static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  struct timespec now;
  if (!real) real = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  if (!real) real = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
  if (until->tv_sec < 2 * (now.tv_sec + 864000)) return real(condition, mutex, until); /* of this clock: far smaller */
  for (;;) {
    struct timespec next = soon();
    int failed = real(condition, mutex, &next);
    if (failed != ETIMEDOUT || is_past(until)) return failed;
  }
}
