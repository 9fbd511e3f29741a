/* An open-loop HTTP/1.1 load generator: Poisson arrivals, one thread, epoll, kept connections.
 *
 * Requests leave when they are due, whatever became of those before. Latency counts from the moment a request was
 * due, so a server that stalls shows the stall in every request that was due meanwhile.
 *
 * generator.py writes the input and reads the output.
 * Arguments: TIMEOUT (seconds) and STOP_SHARE. The run ends early when more than this share of the planned requests
 * are misses: no 2xx answer within the message's SLO.
 * Standard input, one stream after the other:
 *   ADDRESS PORT SEED POINTS MESSAGES        a line
 *   SECONDS RATE                             POINTS lines; the rate is linear between them
 *   WEIGHT SLO LENGTH, then LENGTH bytes     MESSAGES times; each request draws one by weight
 * Standard output: the start on the monotonic clock, a double, then a Request for each that has ended.
 * Exit status: 0, 2 for an error, 3 after an early end.
 *
 * Limits: IPv4, plain HTTP, one request at a time for each connection, answers with Content-Length.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { NO_CONNECTION = 0, TIMED_OUT = -1, BROKEN = -2, UNFINISHED = -3, PENDING = -4 }; /* as in records.py */
enum { CONNECTING, IDLE, BUSY, CLOSED };
enum { STATUS_LINE, HEADER, BODY };
enum { LINE = 512, READ_SIZE = 1 << 18, OUTPUT_SIZE = 1 << 20, EVENTS = 256, MOST_CONNECTIONS = 16000, SPARE_FILES = 64 };

#define NONE UINT32_MAX
#define EXPIRY_SECONDS 0.05
#define FLUSH_SECONDS 0.2
/* Above this rate it wakes at most every COALESCE_SECONDS, for all that is due and all that came meanwhile: as a
 * network card's interrupts are coalesced. Waking for each costs more than the request itself, on both sides. */
#define COALESCE_ABOVE 1000.0
#define COALESCE_SECONDS 0.00025

typedef struct {
    double due, latency; /* seconds from the start; latency from due */
    float lag;           /* from due until its turn: the generator's own lateness */
    int32_t status;
    uint16_t stream, message;
    uint32_t connection;
} Request; /* generator.py knows this layout */

typedef struct {
    char *bytes; /* the head and the body */
    size_t length;
    double weight, slo;
} Message;

typedef struct {
    double at, rate;
} Point;

typedef struct {
    struct sockaddr_in address;
    uint64_t random_state;
    Point *points;
    size_t point_count, segment;
    double reached;   /* of the segment's requests, as expected by the rate */
    double due;       /* the next request, or infinite */
    uint32_t idle, oldest_idle; /* the youngest idle connection, and the oldest if there is one */
    uint32_t first, message_count; /* its messages */
    double weight;    /* of all of them */
} Stream;

typedef struct {
    int fd, state, parse, status;
    uint32_t stream, request, previous, next; /* of the idle list, youngest first */
    size_t sent;
    int64_t left; /* bytes of the body to come; -1 unknown */
    int line_length, close_after, used, got, want_write;
    char line[LINE];
} Connection;

static double timeout, stop_share, planned, peak_rate;
static Stream *streams;
static Message *messages;
static size_t stream_count, message_count;
static Request *requests; /* in the order in which they are due */
static size_t request_count, request_room;
static size_t unstarted, oldest, judged; /* the first request that has no connection yet, may run out, may be a miss */
static size_t outstanding, missed;
static Connection *connections; /* by file descriptor */
static uint32_t open_now, max_connections = MOST_CONNECTIONS;
static int poller;
static struct timespec start_time;
static char *read_buffer;

static void fail(const char *what, const char *detail) {
    fprintf(stderr, "openload: %s: %s\n", what, detail);
    exit(2);
}

static void *checked(void *memory) {
    if (memory == NULL)
        fail("memory", "none left");
    return memory;
}

static double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)(t.tv_sec - start_time.tv_sec) + 1e-9 * (double)(t.tv_nsec - start_time.tv_nsec);
}

static struct timespec timespec_of(double seconds) {
    return (struct timespec){(time_t)seconds, (long)((seconds - floor(seconds)) * 1e9)};
}

/* splitmix64 (Steele, Lea, Flood, OOPSLA 2014): uniform in (0, 1]. */
static double uniform(Stream *s) {
    uint64_t z = (s->random_state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    z ^= z >> 31;
    return (double)((z >> 11) + 1) * 0x1.0p-53;
}

/* Unit-exponential gaps along the cumulative rate, mapped back to time (time-rescaling, Cinlar 1975): exact where the
 * rate is linear. */
static double next_due(Stream *s) {
    double gap = -log(uniform(s));
    for (; s->segment + 1 < s->point_count; s->segment++, s->reached = 0) {
        Point a = s->points[s->segment], b = s->points[s->segment + 1];
        double length = b.at - a.at, area = length * (a.rate + b.rate) / 2;
        if (area > 0 && s->reached + gap <= area) {
            s->reached += gap;
            double slope = (b.rate - a.rate) / length;
            double root = sqrt(fmax(a.rate * a.rate + 2 * slope * s->reached, 0));
            return fmin(a.at + 2 * s->reached / (a.rate + root), b.at);
        }
        gap -= area - s->reached;
    }
    return INFINITY;
}

static uint16_t draw_message(Stream *s) {
    uint32_t index = s->first, last = s->first + s->message_count - 1;
    double left = s->message_count > 1 ? uniform(s) * s->weight : 0;
    while (index < last && left > messages[index].weight)
        left -= messages[index++].weight;
    return (uint16_t)index;
}

static void finish(size_t index, int status) {
    Request *r = &requests[index];
    if (r->status != PENDING)
        return;
    r->status = status;
    r->latency = now_seconds() - r->due;
    r->connection = NONE;
    outstanding--;
    if (fwrite(r, sizeof *r, 1, stdout) != 1)
        fail("standard output", strerror(errno));
}

static void idle_push(uint32_t index) {
    Connection *c = &connections[index];
    uint32_t *head = &streams[c->stream].idle;
    c->state = IDLE;
    c->request = NONE;
    c->previous = NONE;
    c->next = *head;
    if (*head != NONE)
        connections[*head].previous = index;
    else
        streams[c->stream].oldest_idle = index;
    *head = index;
}

static void idle_remove(uint32_t index) {
    Connection *c = &connections[index];
    if (c->previous != NONE)
        connections[c->previous].next = c->next;
    else
        streams[c->stream].idle = c->next;
    if (c->next != NONE)
        connections[c->next].previous = c->previous;
    else
        streams[c->stream].oldest_idle = c->previous;
}

static void release(uint32_t index, int reset) {
    Connection *c = &connections[index];
    if (c->state == IDLE)
        idle_remove(index);
    if (reset) { /* no TIME_WAIT for what is thrown away */
        struct linger linger = {1, 0};
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    }
    close(c->fd);
    c->state = CLOSED;
    open_now--;
}

static void open_connection(size_t request);

/* A server may close a kept connection at the moment the request leaves; HTTP clients then repeat it once, on a
 * connection of its own: another kept one may be as stale. */
static void lose(uint32_t index, int status) {
    Connection *c = &connections[index];
    uint32_t request = c->request;
    int again = request != NONE && c->used && !c->got;
    release(index, 1);
    if (again)
        open_connection(request);
    else if (request != NONE)
        finish(request, status);
}

static void interest(uint32_t index, int write) {
    Connection *c = &connections[index];
    if (c->want_write == write)
        return;
    struct epoll_event event = {EPOLLIN | (write ? EPOLLOUT : 0), {.u32 = index}};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
    c->want_write = write;
}

static void send_more(uint32_t index) {
    Connection *c = &connections[index];
    const Message *m = &messages[requests[c->request].message];
    while (c->sent < m->length) {
        ssize_t n = send(c->fd, m->bytes + c->sent, m->length - c->sent, MSG_NOSIGNAL);
        if (n >= 0)
            c->sent += (size_t)n;
        else if (errno == EAGAIN) {
            interest(index, 1);
            return;
        } else if (errno != EINTR) {
            lose(index, BROKEN);
            return;
        }
    }
    interest(index, 0);
}

static void give(uint32_t index, size_t request) {
    Connection *c = &connections[index];
    c->state = BUSY;
    c->request = (uint32_t)request;
    c->sent = 0;
    c->got = 0;
    c->parse = STATUS_LINE;
    c->line_length = 0;
    requests[request].connection = index;
    send_more(index);
}

static void open_connection(size_t request) {
    uint32_t stream = requests[request].stream;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    int connected = connect(fd, (struct sockaddr *)&streams[stream].address, sizeof(struct sockaddr_in)) == 0;
    if (!connected && errno != EINPROGRESS) {
        close(fd);
        finish(request, NO_CONNECTION);
        return;
    }
    uint32_t index = (uint32_t)fd;
    connections[index] = (Connection){.fd = fd, .stream = stream, .request = (uint32_t)request,
                                      .want_write = !connected, .state = CONNECTING};
    requests[request].connection = index;
    struct epoll_event event = {EPOLLIN | (connected ? 0 : EPOLLOUT), {.u32 = index}};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl", strerror(errno));
    open_now++;
    if (connected)
        give(index, request);
}

/* Returns whether one more connection may be opened. At the limit an idle one of another stream makes room. */
static int has_room(void) {
    for (size_t i = 0; open_now >= max_connections && i < stream_count; i++)
        if (streams[i].idle != NONE)
            release(streams[i].oldest_idle, 1);
    return open_now < max_connections;
}

/* Requests get a connection in the order in which they were due. Beyond the most connections they wait for one until
 * their time is up. */
static void start_waiting(void) {
    while (unstarted < request_count) {
        if (requests[unstarted].status == PENDING) {
            uint32_t idle = streams[requests[unstarted].stream].idle;
            if (idle == NONE && !has_room())
                return;
            if (idle == NONE) {
                open_connection(unstarted);
            } else {
                idle_remove(idle);
                give(idle, unstarted);
            }
        }
        unstarted++;
    }
}

static void answered(uint32_t index) {
    Connection *c = &connections[index];
    finish(c->request, c->status);
    c->used = 1;
    if (c->close_after || c->want_write) /* answered before it had the whole request: not to be used again */
        release(index, 0);
    else
        idle_push(index);
}

/* One line of the head. Returns 1 when the answer is complete, -1 if it is broken. */
static int line_ended(Connection *c) {
    char *line = c->line;
    int length = c->line_length - (c->line_length && line[c->line_length - 1] == '\r');
    line[length] = 0;
    c->line_length = 0;
    if (c->parse == STATUS_LINE) {
        if (strncmp(line, "HTTP/1.", 7) != 0 || length < 12)
            return -1;
        c->status = atoi(line + 9);
        c->close_after = line[7] == '0';
        c->left = -1;
        c->parse = HEADER;
    } else if (length == 0) {
        c->parse = c->status < 200 ? STATUS_LINE : BODY;
        if (c->status == 204 || c->status == 304)
            c->left = 0;
        return c->parse == STATUS_LINE || c->left > 0 ? 0 : c->left == 0 ? 1 : -1;
    } else if (strncasecmp(line, "content-length:", 15) == 0)
        c->left = strtoll(line + 15, NULL, 10);
    else if (strncasecmp(line, "connection:", 11) == 0)
        c->close_after |= strcasestr(line + 11, "close") != NULL;
    return 0;
}

static int parse(Connection *c, const char *bytes, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (c->parse == BODY) {
            c->left -= (int64_t)(length - i);
            return c->left > 0 ? 0 : c->left == 0 ? 1 : -1;
        }
        if (bytes[i] == '\n') {
            int result = line_ended(c);
            if (result)
                return result > 0 && i + 1 == length ? 1 : -1;
        } else if (c->line_length < LINE - 1)
            c->line[c->line_length++] = bytes[i];
    }
    return 0;
}

static void readable(uint32_t index) {
    Connection *c = &connections[index];
    for (;;) {
        ssize_t n = recv(c->fd, read_buffer, READ_SIZE, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0 || c->request == NONE) {
            lose(index, BROKEN);
            return;
        }
        c->got = 1;
        int result = parse(c, read_buffer, (size_t)n);
        if (result > 0)
            answered(index);
        else if (result < 0)
            lose(index, BROKEN);
        if (result != 0 || n < READ_SIZE)
            return;
    }
}

static void handle(const struct epoll_event *event) {
    uint32_t index = event->data.u32;
    Connection *c = &connections[index];
    if (c->state == CLOSED)
        return;
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error)
            lose(index, NO_CONNECTION);
        else if (event->events & EPOLLOUT)
            give(index, c->request);
    } else if (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        readable(index);
    } else if (c->state == BUSY && (event->events & EPOLLOUT)) {
        send_more(index);
    }
}

static void take_events(void) {
    static struct epoll_event events[EVENTS];
    int n;
    do {
        n = epoll_wait(poller, events, EVENTS, 0);
        if (n < 0 && errno != EINTR)
            fail("epoll_wait", strerror(errno));
        for (int i = 0; i < n; i++)
            handle(&events[i]);
    } while (n == EVENTS);
}

/* One time limit for all, so requests run out in the order in which they were due. */
static void expire(double now) {
    for (; oldest < request_count && (requests[oldest].status != PENDING || requests[oldest].due + timeout <= now);
         oldest++) {
        uint32_t connection = requests[oldest].connection;
        finish(oldest, TIMED_OUT);
        if (connection != NONE)
            release(connection, 1);
    }
}

/* Requests are judged once, in order, when their SLO has passed: what is not good by then is a miss. */
static void judge(double now) {
    for (; judged < request_count; judged++) {
        const Request *r = &requests[judged];
        double slo = messages[r->message].slo;
        if (r->due + slo >= now)
            return;
        missed += !(r->status >= 200 && r->status < 300 && r->latency <= slo);
    }
}

static Stream *next_stream(void) {
    Stream *next = &streams[0];
    for (size_t i = 1; i < stream_count; i++)
        if (streams[i].due < next->due)
            next = &streams[i];
    return next;
}

static void add_request(Stream *s, double now) {
    if (request_count == request_room) {
        request_room *= 2;
        requests = checked(realloc(requests, request_room * sizeof *requests));
    }
    requests[request_count++] = (Request){.due = s->due, .lag = (float)(now - s->due), .status = PENDING,
                                          .stream = (uint16_t)(s - streams), .message = draw_message(s),
                                          .connection = NONE};
    outstanding++;
    s->due = next_due(s);
}

static void wait_until(double at, double now, double *awake) {
    if (peak_rate > COALESCE_ABOVE) {
        *awake = fmax(*awake + COALESCE_SECONDS, now);
        struct timespec pause = timespec_of(*awake - now);
        nanosleep(&pause, NULL);
    } else {
        struct pollfd ready = {poller, POLLIN, 0};
        struct timespec pause = timespec_of(fmax(at - now, 0));
        ppoll(&ready, 1, &pause, NULL);
    }
}

/* Runs until all is answered or given up. Returns 1 if it was cut short because too many had missed. */
static int run(void) {
    double awake = 0, flushed = 0;
    for (;;) {
        double now = now_seconds();
        Stream *next;
        while ((next = next_stream())->due <= now) {
            add_request(next, now);
            start_waiting();
            now = now_seconds();
        }
        expire(now);
        start_waiting();
        judge(now);
        if (stop_share < 1 && (double)missed > stop_share * planned + 1)
            return 1;
        if (isinf(next->due) && outstanding == 0)
            return 0;
        if (now > flushed + FLUSH_SECONDS) {
            fflush(stdout);
            flushed = now;
        }
        wait_until(fmin(next->due, now + EXPIRY_SECONDS), now, &awake);
        take_events();
    }
}

static void read_message(Stream *s) {
    Message m;
    if (message_count == UINT16_MAX || scanf("%lf %lf %zu", &m.weight, &m.slo, &m.length) != 3 || getchar() != '\n')
        fail("input", "expected WEIGHT SLO LENGTH, and at most 65,535 messages");
    m.bytes = checked(malloc(m.length + 1));
    if (fread(m.bytes, 1, m.length, stdin) != m.length)
        fail("input", "a message is cut short");
    messages = checked(realloc(messages, (message_count + 1) * sizeof *messages));
    messages[message_count++] = m;
    s->weight += m.weight;
}

static int read_stream(void) {
    char host[64];
    unsigned short port;
    Stream s = {.idle = NONE, .first = (uint32_t)message_count};
    int found = scanf("%63s %hu %lu %zu %u", host, &port, &s.random_state, &s.point_count, &s.message_count);
    if (found == EOF)
        return 0;
    s.address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
    if (found != 5 || inet_pton(AF_INET, host, &s.address.sin_addr) != 1 || !s.message_count || !s.point_count)
        fail("input", "expected ADDRESS PORT SEED POINTS MESSAGES with an IPv4 address");
    if (stream_count == UINT16_MAX)
        fail("input", "has more than 65,534 streams");
    s.random_state = s.random_state * 0x2545f4914f6cdd1dULL + 1;
    s.points = checked(calloc(s.point_count, sizeof *s.points));
    double highest = 0;
    for (size_t i = 0; i < s.point_count; i++) {
        Point *p = &s.points[i];
        if (scanf("%lf %lf", &p->at, &p->rate) != 2)
            fail("input", "expected SECONDS RATE");
        highest = fmax(highest, p->rate);
        if (i)
            planned += (p->at - p[-1].at) * (p->rate + p[-1].rate) / 2;
    }
    peak_rate += highest;
    for (uint32_t i = 0; i < s.message_count; i++)
        read_message(&s);
    s.due = next_due(&s);
    streams = checked(realloc(streams, (stream_count + 1) * sizeof *streams));
    streams[stream_count++] = s;
    return 1;
}

static void set_up(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < MOST_CONNECTIONS + SPARE_FILES ? files.rlim_max : MOST_CONNECTIONS + SPARE_FILES;
    if (files.rlim_cur <= SPARE_FILES || setrlimit(RLIMIT_NOFILE, &files) < 0)
        fail("open files", "more than 64 must be allowed");
    max_connections = (uint32_t)files.rlim_cur - SPARE_FILES;
    /* It shares the machine with what it measures and must not wait for it, as one on another machine would not.
     * Only root may; the lag that is measured decides whether it matters. */
    struct sched_param priority = {.sched_priority = 1};
    if (sched_setscheduler(0, SCHED_RR, &priority) < 0)
        setpriority(PRIO_PROCESS, 0, -10);
    prctl(PR_SET_TIMERSLACK, 1);
    signal(SIGINT, SIG_IGN); /* Ctrl-C in a terminal is for the parent alone, which ends this process */
    setvbuf(stdout, checked(malloc(OUTPUT_SIZE)), _IOFBF, OUTPUT_SIZE);
    fcntl(STDOUT_FILENO, F_SETPIPE_SZ, OUTPUT_SIZE); /* a reader that is late for a moment does not stop it */
    while (read_stream())
        ;
    if (stream_count == 0)
        fail("input", "has no stream");
    request_room = (size_t)(planned * 1.1) + 1024;
    requests = checked(malloc(request_room * sizeof *requests));
    connections = checked(calloc(max_connections + SPARE_FILES, sizeof *connections));
    read_buffer = checked(malloc(READ_SIZE));
    if ((poller = epoll_create1(EPOLL_CLOEXEC)) < 0)
        fail("epoll", strerror(errno));
}

int main(int count, char **words) {
    if (count != 3 || sscanf(words[1], "%lf", &timeout) != 1 || sscanf(words[2], "%lf", &stop_share) != 1)
        fail("usage", "openload TIMEOUT STOP_SHARE < STREAMS");
    set_up();
    clock_gettime(CLOCK_MONOTONIC, &start_time);
    double start = (double)start_time.tv_sec + 1e-9 * (double)start_time.tv_nsec;
    fwrite(&start, sizeof start, 1, stdout);
    fflush(stdout);
    int stopped = run();
    for (size_t i = 0; i < request_count; i++)
        finish(i, UNFINISHED);
    return fflush(stdout) ? 2 : stopped ? 3 : 0;
}
