/* The floor: what the bare system calls cost, to be run inside a worker, so that both are measured on the same sockets.
 *
 * Owns: nothing but the descriptors that floor_accept took, which floor_close ends.
 * Must never: do anything that a server would have to do beside the calls themselves.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint64_t thread_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* One send for each descriptor. How many took all of it. */
long floor_sweep(const int *fds, long n, const void *p, size_t len)
{
    long whole = 0;
    for (long i = 0; i < n; i++)
        whole += send(fds[i], p, len, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len;
    return whole;
}

/* Accepts n connections, reads a request from each and answers it with the same bytes: accept4, epoll_ctl, recv, send.
 * The descriptors go to fds. CPU nanoseconds of this thread, or 0 when it took longer than seconds. */
uint64_t floor_accept(int listener, int *fds, long n, const void *answer, size_t len, int seconds)
{
    struct epoll_event events[64], e = {.events = EPOLLIN, .data.fd = listener};
    char request[8192];
    long taken = 0, answered = 0;
    int epfd = epoll_create1(EPOLL_CLOEXEC);
    time_t deadline = time(NULL) + seconds;
    epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &e);
    uint64_t began = thread_ns();
    while (answered < n && time(NULL) < deadline) {
        int ready = epoll_wait(epfd, events, 64, 100);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd != listener) {
                if (recv(events[i].data.fd, request, sizeof request, MSG_DONTWAIT) > 0) {
                    send(events[i].data.fd, answer, len, MSG_DONTWAIT | MSG_NOSIGNAL);
                    answered++;
                }
                continue;
            }
            for (int k = 0; k < 32 && taken < n; k++) {
                int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                if (fd < 0)
                    break;
                fds[taken++] = fd;
                e.events = EPOLLIN | EPOLLRDHUP | EPOLLET;
                e.data.fd = fd;
                epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &e);
            }
        }
    }
    uint64_t cpu = thread_ns() - began;
    close(epfd);
    return answered < n ? 0 : cpu;
}

void floor_close(const int *fds, long n)
{
    for (long i = 0; i < n; i++)
        if (fds[i] > 0)
            close(fds[i]);
}
