/* The least that a front can do: read requests, send what waits to an idle worker as one frame, send the answers back.
 *
 * In place of the watchdog, before the very same workers, it tells what there is to gain in front of them, whatever
 * a front is written in. So it has no policy but "what waits, now", no deadlines, limits, timeouts, metrics or errors,
 * believes every client, and ends when a worker does. Nobody should serve with it.
 *
 * bare PORT WORKERS SIZE SOCKET COMMAND...    COMMAND starts the workers on the Unix socket SOCKET; the word PARENT in
 * it becomes the process id that they are to die with. Frames are those of batching_watchdog/wire.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { FRAME = 28, ITEM = 12, MAX_FD = 1 << 16, MAX_WORKERS = 64, EVENTS = 256, WAITING = 1 << 17, ANSWER = 1 << 16 };

typedef struct {
    char *data;
    size_t used, room;
} Buffer;

typedef struct {
    Buffer in;
    uint32_t generation;
    size_t line, head, body; /* where the request line's path ends; bytes of the head, 0 while it has not come; of the body */
    char open, busy;
} Client;

typedef struct {
    int fd;
    Buffer in, out;
    size_t sent;
    uint32_t count;
    int *clients;
    uint32_t *generations;
    char idle, blocked;
} Worker;

static Client clients[MAX_FD];
static Worker workers[MAX_WORKERS];
static int worker_of[MAX_FD]; /* its index + 1; 0: a client */
static int waiting[WAITING];
static size_t first, last;
static int worker_count, poller;
static uint32_t batch_size;

static void fail(const char *what) {
    perror(what);
    exit(2);
}

static void make_room(Buffer *buffer, size_t more) {
    if (buffer->used + more <= buffer->room)
        return;
    buffer->room = (buffer->used + more) * 2;
    if ((buffer->data = realloc(buffer->data, buffer->room)) == NULL)
        fail("memory");
}

static void append(Buffer *buffer, const char *data, size_t length) {
    make_room(buffer, length);
    memcpy(buffer->data + buffer->used, data, length);
    buffer->used += length;
}

static void watch(int fd, uint32_t events, int operation) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(poller, operation, fd, &event))
        fail("epoll_ctl");
}

static uint32_t length_at(const char *item, int which) {
    uint32_t length;
    memcpy(&length, item + 4 + 4 * which, sizeof length);
    return length;
}

static void drop(int fd) {
    Client *client = &clients[fd];
    client->open = client->busy = 0;
    client->generation++;
    close(fd);
}

static void flush(Worker *worker) {
    while (worker->sent < worker->out.used) {
        ssize_t sent = send(worker->fd, worker->out.data + worker->sent, worker->out.used - worker->sent, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            fail("worker");
        if (sent < 0) {
            if (!worker->blocked)
                watch(worker->fd, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
            worker->blocked = 1;
            return;
        }
        worker->sent += (size_t)sent;
    }
    if (worker->blocked)
        watch(worker->fd, EPOLLIN, EPOLL_CTL_MOD);
    worker->blocked = 0;
}

static void send_batch(Worker *worker) {
    Buffer *out = &worker->out;
    worker->count = 0;
    while (first != last && worker->count < batch_size) {
        int fd = waiting[first++ % WAITING];
        if (!clients[fd].open || !clients[fd].busy)
            continue;
        worker->clients[worker->count] = fd;
        worker->generations[worker->count++] = clients[fd].generation;
    }
    if (worker->count == 0)
        return;
    out->used = worker->sent = 0;
    make_room(out, FRAME + ITEM * worker->count);
    out->used = FRAME + ITEM * worker->count;
    for (uint32_t i = 0; i < worker->count; i++) {
        /* As wire.request_head makes it: the request line without " HTTP/1.1", and no empty line. */
        const Client *client = &clients[worker->clients[i]];
        const uint32_t item[3] = {0, (uint32_t)(client->head - 11), (uint32_t)client->body};
        memcpy(out->data + FRAME + ITEM * i, item, sizeof item);
        append(out, client->in.data, client->line);
        append(out, client->in.data + client->line + 9, client->head - 11 - client->line);
    }
    for (uint32_t i = 0; i < worker->count; i++) {
        const Client *client = &clients[worker->clients[i]];
        append(out, client->in.data + client->head, client->body);
    }
    const uint64_t size = out->used - FRAME;
    memcpy(out->data, "TBW1\2\0\0\0", 8);
    memcpy(out->data + 8, &worker->count, 4);
    memcpy(out->data + 12, &size, 8);
    memset(out->data + 20, 0, 8);
    worker->idle = 0;
    flush(worker);
}

static void read_head(Client *client) {
    const char *const end = memmem(client->in.data, client->in.used, "\r\n\r\n", 4);
    if (end == NULL)
        return;
    const char *line = memchr(client->in.data, '\r', client->in.used);
    client->head = (size_t)(end - client->in.data) + 4;
    client->line = (size_t)(line - client->in.data) - 9;
    client->body = 0;
    for (; line < end; line = memchr(line + 2, '\r', (size_t)(end + 2 - line)))
        if (strncasecmp(line + 2, "content-length:", 15) == 0)
            client->body = strtoul(line + 17, NULL, 10);
}

static void read_client(int fd) {
    Client *client = &clients[fd];
    make_room(&client->in, client->head ? client->head + client->body : 4096);
    ssize_t got = recv(fd, client->in.data + client->in.used, client->in.room - client->in.used, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            drop(fd);
        return;
    }
    client->in.used += (size_t)got;
    if (client->head == 0)
        read_head(client);
    if (!client->busy && client->head && client->in.used >= client->head + client->body) {
        client->busy = 1;
        waiting[last++ % WAITING] = fd;
    }
}

static void answer(Worker *worker, uint32_t index, const char *item, const char *head, const char *body) {
    const int fd = worker->clients[index];
    Client *client = &clients[fd];
    if (!client->open || client->generation != worker->generations[index])
        return;
    static char out[ANSWER];
    uint16_t status;
    memcpy(&status, item, sizeof status);
    const uint32_t head_length = length_at(item, 0), body_length = length_at(item, 1);
    if (head_length + body_length + 64 > ANSWER) {
        fprintf(stderr, "bare: an answer is longer than %d bytes\n", ANSWER);
        exit(2);
    }
    int at = sprintf(out, "HTTP/1.1 %u \r\nContent-Length: %u\r\n%.*s\r\n", status, body_length, (int)head_length, head);
    memcpy(out + at, body, body_length);
    at += (int)body_length;
    client->busy = 0;
    client->in.used = client->head = 0;
    if (send(fd, out, (size_t)at, MSG_NOSIGNAL) != at)
        drop(fd);
}

static void read_worker(Worker *worker) {
    make_room(&worker->in, 1 << 16);
    ssize_t got = recv(worker->fd, worker->in.data + worker->in.used, worker->in.room - worker->in.used, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        fprintf(stderr, "bare: a worker is gone\n");
        exit(1);
    }
    worker->in.used += (size_t)got;
    uint64_t size;
    if (worker->in.used < FRAME)
        return;
    memcpy(&size, worker->in.data + 12, sizeof size);
    if (worker->in.used < FRAME + size) {
        make_room(&worker->in, size);
        return;
    }
    const char *item = worker->in.data + FRAME, *head = item + ITEM * worker->count, *body = head;
    for (uint32_t i = 0; i < worker->count; i++)
        body += length_at(item + ITEM * i, 0);
    for (uint32_t i = 0; i < worker->count; i++, item += ITEM) {
        answer(worker, i, item, head, body);
        head += length_at(item, 0);
        body += length_at(item, 1);
    }
    worker->in.used = 0;
    worker->idle = 1;
}

static void start_workers(char **command) {
    char parent[32];
    sprintf(parent, "%d", getpid());
    if (fork() != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    for (char **word = command; *word; word++)
        if (strcmp(*word, "PARENT") == 0)
            *word = parent;
    execvp(*command, command);
    fail(*command);
}

static void connect_worker(Worker *worker, const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    for (;;) {
        worker->fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(worker->fd, (struct sockaddr *)&address, sizeof address) == 0)
            break;
        close(worker->fd);
        usleep(50000);
    }
    char header[FRAME];
    uint64_t size;
    if (recv(worker->fd, header, FRAME, MSG_WAITALL) != FRAME)
        fail("greeting");
    memcpy(&size, header + 12, sizeof size);
    make_room(&worker->in, size);
    if (recv(worker->fd, worker->in.data, size, MSG_WAITALL) != (ssize_t)size)
        fail("greeting");
    worker->clients = calloc(batch_size, sizeof *worker->clients);
    worker->generations = calloc(batch_size, sizeof *worker->generations);
    worker->idle = 1;
    worker_of[worker->fd] = (int)(worker - workers) + 1;
    fcntl(worker->fd, F_SETFL, O_NONBLOCK);
    watch(worker->fd, EPOLLIN, EPOLL_CTL_ADD);
}

static void accept_clients(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        clients[fd].open = 1;
        clients[fd].in.used = clients[fd].head = 0;
        watch(fd, EPOLLIN, EPOLL_CTL_ADD);
    }
}

int main(int count, char **arguments) {
    if (count < 6) {
        fprintf(stderr, "usage: bare PORT WORKERS SIZE SOCKET COMMAND...\n");
        return 2;
    }
    worker_count = atoi(arguments[2]);
    batch_size = (uint32_t)atoi(arguments[3]);
    poller = epoll_create1(0);
    start_workers(arguments + 5);
    for (int i = 0; i < worker_count; i++)
        connect_worker(&workers[i], arguments[4]);

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(arguments[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1 << 14))
        fail("listen");
    watch(listener, EPOLLIN, EPOLL_CTL_ADD);

    for (;;) {
        struct epoll_event events[EVENTS];
        const int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            const int fd = events[i].data.fd;
            Worker *worker = &workers[worker_of[fd] - 1];
            if (fd == listener)
                accept_clients(listener);
            else if (worker_of[fd] == 0 && clients[fd].open)
                read_client(fd);
            else if (worker_of[fd] && events[i].events & EPOLLOUT)
                flush(worker);
            else if (worker_of[fd])
                read_worker(worker);
        }
        for (int i = 0; i < worker_count && first != last; i++)
            if (workers[i].idle)
                send_batch(&workers[i]);
    }
}
