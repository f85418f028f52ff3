// What xtask/vm/guest.sh takes the stacks of, on aarch64: built without frame pointers and with signed return addresses.
// Half of the time it is in a leaf below libc's qsort, half of it in the handler of a signal that has interrupted a leaf.
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define OWN __attribute__((noinline, noclone))

static volatile unsigned long turns;
static volatile sig_atomic_t raised;

// Calls nobody: the return address stays in x30.
OWN unsigned long leaf(unsigned long n) {
    for (unsigned long i = 0; i < n; i++) turns += i ^ n;
    return turns;
}

OWN int compare(const void *a, const void *b) {
    leaf(20000);
    // Not a tail call: the frame of `compare` is there.
    __asm__ volatile("");
    return memcmp(a, b, 1);
}

OWN void sorter(void) {
    char letters[64];
    for (unsigned i = 0; i < sizeof letters; i++) letters[i] = (char)(i * 37);
    qsort(letters, sizeof letters, 1, compare);
    __asm__ volatile("" : : "r"(letters) : "memory");
}

OWN void handled(void) {
    leaf(4000000);
    __asm__ volatile("");
}

static void on_alarm(int number) {
    (void)number;
    handled();
    raised = 1;
}

// Interrupted while its caller's return address is in x30 alone.
OWN void interrupted(void) {
    while (!raised) turns++;
}

OWN void waiter(void) {
    raised = 0;
    struct itimerspec once = {.it_value.tv_nsec = 1000000};
    timer_t timer;
    timer_create(CLOCK_MONOTONIC, 0, &timer);
    timer_settime(timer, 0, &once, 0);
    interrupted();
    timer_delete(timer);
}

int main(void) {
    signal(SIGALRM, on_alarm);
    for (;;) {
        sorter();
        waiter();
    }
}
