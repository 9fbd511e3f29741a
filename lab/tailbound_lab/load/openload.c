/* An open-loop HTTP/1.1 load generator: Poisson arrivals, one thread, epoll, kept connections.
 *
 * Requests leave when they are due, whatever became of those before, and latency counts from the moment a request
 * was due: a server that stalls shows the stall in every request that was due meanwhile. Everything but a 2xx
 * answer within the SLO is a miss. Each request is drawn by weight from the messages on standard input. The generator measures its own lag (how late it handed requests to the
 * kernel); if its 99th percentile is above the allowed lag it says "lagged" and ends with status 3.
 *
 * One JSON object on standard output, which records.py reads. Limits: 127.0.0.1, plain HTTP, one request at a time for
 * each connection, answers with Content-Length or chunks.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { TIMED_OUT = -1, BROKEN = -2, NO_CONNECTION = -3, PENDING = 0 };
enum { CONNECTING, IDLE, BUSY, CLOSED };
enum { STATUS_LINE, HEADER, BODY, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER };
enum { LINE = 512, READ_SIZE = 1 << 18, EVENTS = 256, MOST_CONNECTIONS = 16000 };

#define NONE UINT32_MAX
/* Above this rate it wakes at most every COALESCE_SECONDS, for all that is due and all that came meanwhile: as a
 * network card's interrupts are coalesced. Waking for each costs more than the request itself, on both sides. */
#define COALESCE_ABOVE 1000.0
#define COALESCE_SECONDS 0.00025

typedef struct {
    double due, latency; /* seconds from the start; latency from due */
    float lag;
    int status;
    uint32_t connection;
    uint16_t message;
    uint8_t retried;
} Request;

typedef struct {
    char *bytes; /* the head and the body */
    size_t length, sent, good;
    double weight, slo;
} Message;

typedef struct {
    int fd, state, parse, status;
    uint32_t request, previous, next; /* of the idle list, youngest first; next also links free slots */
    size_t sent;
    int64_t left; /* bytes of body or chunk to come; -1 unknown */
    int line_length, chunked, close_after, used, got, want_write;
    char line[LINE];
} Connection;

static struct {
    double port, rate, seconds, timeout, max_lag, stop_share, seed;
} options;

static Message *messages;
static uint16_t message_count;
static double total_weight;
static struct sockaddr_in address = {.sin_family = AF_INET};
static Request *requests;
static size_t request_count, request_room, oldest, judged, missed;
static size_t outstanding;
static Connection *connections;
static uint32_t connection_count, free_slot = NONE, idle_head = NONE;
static uint32_t open_now, max_connections = MOST_CONNECTIONS;
static size_t *waiting, waiting_first, waiting_end, waiting_room;
static int poller, timer;
static struct timespec start_time;
static uint64_t random_state;
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

/* splitmix64 (Steele, Lea, Flood, OOPSLA 2014): uniform in (0, 1]. */
static double uniform(void) {
    uint64_t z = (random_state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    z ^= z >> 31;
    return (double)((z >> 11) + 1) * 0x1.0p-53;
}

static int is_good(const Request *r) {
    return r->status >= 200 && r->status < 300 && r->latency <= messages[r->message].slo;
}

/* Requests are judged once, in order, when their SLO has passed: what is not good by then is a miss. */
static void judge(double now) {
    while (judged < request_count && requests[judged].due + messages[requests[judged].message].slo < now) {
        missed += !is_good(&requests[judged]);
        judged++;
    }
}

static void start_request(size_t index);
static int open_connection(size_t request);

static void finish(size_t index, int status, double now) {
    Request *r = &requests[index];
    if (r->status != PENDING)
        return;
    r->status = status;
    r->latency = now - r->due;
    r->connection = NONE;
    outstanding--;
}

static void idle_remove(uint32_t index) {
    Connection *c = &connections[index];
    if (c->previous != NONE)
        connections[c->previous].next = c->next;
    else
        idle_head = c->next;
    if (c->next != NONE)
        connections[c->next].previous = c->previous;
}

static void idle_push(uint32_t index) {
    Connection *c = &connections[index];
    c->state = IDLE;
    c->previous = NONE;
    c->next = idle_head;
    if (idle_head != NONE)
        connections[idle_head].previous = index;
    idle_head = index;
}

/* Who has waited for a connection until its time was up is not sent any more: under a large overload that would
   be a connection for each of them, one after the other, long after the run. */
static size_t next_waiting(void) {
    double now = waiting_first < waiting_end ? now_seconds() : 0;
    while (waiting_first < waiting_end) {
        size_t index = waiting[waiting_first++];
        if (requests[index].status == PENDING && requests[index].due + options.timeout > now)
            return index;
    }
    waiting_first = waiting_end = 0;
    return SIZE_MAX;
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
    c->fd = -1;
    c->state = CLOSED;
    c->next = free_slot;
    free_slot = index;
    open_now--;
}

static void serve_waiting(void) {
    while (open_now < max_connections || idle_head != NONE) {
        size_t index = next_waiting();
        if (index == SIZE_MAX)
            return;
        start_request(index);
    }
}

/* A server may close a kept connection at the moment the request leaves; HTTP clients then repeat it once, on a
   connection of its own: another kept one may be as stale. */
static void lose(uint32_t index, int status) {
    Connection *c = &connections[index];
    uint32_t request = c->request;
    int again = request != NONE && c->used && !c->got && !requests[request].retried;
    c->request = NONE;
    release(index, 1);
    if (request != NONE && requests[request].status == PENDING) {
        requests[request].connection = NONE;
        if (again) {
            requests[request].retried = 1;
            if (!open_connection(request))
                finish(request, NO_CONNECTION, now_seconds());
        } else {
            finish(request, status, now_seconds());
        }
    }
    serve_waiting();
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
        if (n < 0) {
            if (errno == EAGAIN) {
                interest(index, 1);
                return;
            }
            if (errno == EINTR)
                continue;
            lose(index, BROKEN);
            return;
        }
        c->sent += (size_t)n;
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

static int open_connection(size_t request) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    int connected = connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
    if (!connected && errno != EINPROGRESS) {
        close(fd);
        return 0;
    }
    uint32_t index = free_slot;
    if (index != NONE)
        free_slot = connections[index].next;
    else
        index = connection_count++;
    Connection *c = &connections[index];
    memset(c, 0, sizeof *c);
    c->fd = fd;
    c->request = (uint32_t)request;
    c->want_write = !connected;
    requests[request].connection = index;
    struct epoll_event event = {EPOLLIN | (connected ? 0 : EPOLLOUT), {.u32 = index}};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl", strerror(errno));
    open_now++;
    if (connected)
        give(index, request);
    else
        c->state = CONNECTING;
    return 1;
}

static void start_request(size_t index) {
    if (idle_head != NONE) {
        uint32_t connection = idle_head;
        idle_remove(connection);
        give(connection, index);
    } else if (open_now < max_connections) {
        if (!open_connection(index))
            finish(index, NO_CONNECTION, now_seconds());
    } else {
        if (waiting_end == waiting_room) {
            waiting_room = waiting_room ? waiting_room * 2 : 4096;
            waiting = checked(realloc(waiting, waiting_room * sizeof *waiting));
        }
        waiting[waiting_end++] = index;
    }
}

static void answered(uint32_t index) {
    Connection *c = &connections[index];
    if (c->request != NONE)
        finish(c->request, c->status, now_seconds());
    c->request = NONE;
    c->used = 1;
    if (c->close_after || c->want_write) { /* answered before it had the whole request: not to be used again */
        release(index, 0);
        serve_waiting();
        return;
    }
    size_t next = next_waiting();
    if (next != SIZE_MAX)
        give(index, next);
    else
        idle_push(index);
}

static void header_line(Connection *c) {
    char *line = c->line;
    if (strncasecmp(line, "content-length:", 15) == 0)
        c->left = strtoll(line + 15, NULL, 10);
    else if (strncasecmp(line, "transfer-encoding:", 18) == 0)
        c->chunked = strcasestr(line + 18, "chunked") != NULL;
    else if (strncasecmp(line, "connection:", 11) == 0) {
        if (strcasestr(line + 11, "close"))
            c->close_after = 1;
        else if (strcasestr(line + 11, "keep-alive"))
            c->close_after = 0;
    }
}

/* One line of the head, a chunk's size or a trailer. Returns 1 when the answer is complete, -1 if it is broken. */
static int line_ended(Connection *c) {
    if (c->line_length && c->line[c->line_length - 1] == '\r')
        c->line_length--;
    c->line[c->line_length] = 0;
    int empty = c->line_length == 0;
    c->line_length = 0;
    switch (c->parse) {
    case STATUS_LINE:
        if (strncmp(c->line, "HTTP/1.", 7) != 0 || strlen(c->line) < 12)
            return -1;
        c->status = atoi(c->line + 9);
        c->close_after = c->line[7] == '0';
        c->left = -1;
        c->chunked = 0;
        c->parse = HEADER;
        return 0;
    case HEADER:
        if (!empty) {
            header_line(c);
            return 0;
        }
        if (c->status < 200) {
            c->parse = STATUS_LINE;
            return 0;
        }
        if (c->status == 204 || c->status == 304)
            return 1;
        if (c->chunked) {
            c->parse = CHUNK_SIZE;
            return 0;
        }
        if (c->left == 0)
            return 1;
        c->parse = BODY;
        return c->left > 0 ? 0 : -1;
    case CHUNK_SIZE:
        c->left = strtoll(c->line, NULL, 16);
        if (c->left < 0)
            return -1;
        c->parse = c->left ? CHUNK_DATA : TRAILER;
        return 0;
    case CHUNK_END:
        c->parse = CHUNK_SIZE;
        return 0;
    default: /* TRAILER */
        return empty;
    }
}

static int parse(Connection *c, const char *bytes, size_t length) {
    size_t i = 0;
    while (i < length) {
        if (c->parse == BODY || c->parse == CHUNK_DATA) {
            size_t take = length - i;
            if ((int64_t)take > c->left)
                take = (size_t)c->left;
            i += take;
            c->left -= (int64_t)take;
            if (c->left == 0) {
                if (c->parse == BODY)
                    return i == length ? 1 : -1;
                c->parse = CHUNK_END;
            }
            continue;
        }
        char byte = bytes[i++];
        if (byte != '\n') {
            if (c->line_length < LINE - 1)
                c->line[c->line_length++] = byte;
            continue;
        }
        int result = line_ended(c);
        if (result)
            return result > 0 && i == length ? 1 : -1;
    }
    return 0;
}

static void readable(uint32_t index) {
    Connection *c = &connections[index];
    for (;;) {
        ssize_t n = recv(c->fd, read_buffer, READ_SIZE, 0);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN)
                lose(index, BROKEN);
            return;
        }
        if (n == 0 || c->request == NONE) {
            lose(index, BROKEN);
            return;
        }
        c->got = 1;
        int result = parse(c, read_buffer, (size_t)n);
        if (result > 0) {
            answered(index);
            return;
        }
        if (result < 0) {
            lose(index, BROKEN);
            return;
        }
        if (n < READ_SIZE)
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
        if (error) {
            lose(index, NO_CONNECTION);
            return;
        }
        if (!(event->events & EPOLLOUT))
            return;
        if (c->request == NONE || requests[c->request].status != PENDING) {
            interest(index, 0);
            c->request = NONE;
            idle_push(index);
            return;
        }
        give(index, c->request);
        return;
    }
    if (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        readable(index);
        return;
    }
    if (c->state == BUSY && c->request != NONE && (event->events & EPOLLOUT))
        send_more(index);
}

static void expire(double now) {
    while (oldest < request_count) {
        Request *r = &requests[oldest];
        if (r->status == PENDING) {
            if (r->due + options.timeout > now)
                return;
            uint32_t connection = r->connection;
            finish(oldest, TIMED_OUT, now);
            if (connection != NONE) {
                connections[connection].request = NONE;
                release(connection, 1);
                serve_waiting();
            }
        }
        oldest++;
    }
}

static struct timespec absolute(double at) {
    double whole = floor(at);
    struct timespec when = {start_time.tv_sec + (time_t)whole, start_time.tv_nsec + (long)((at - whole) * 1e9)};
    if (when.tv_nsec >= 1000000000L) {
        when.tv_nsec -= 1000000000L;
        when.tv_sec++;
    }
    return when;
}

static void arm(double at) {
    struct itimerspec when = {{0, 0}, absolute(at)};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

/* One message needs no draw. */
static uint16_t draw_message(void) {
    double left = message_count > 1 ? uniform() * total_weight : 0;
    uint16_t index = 0;
    while (index + 1 < message_count && left > messages[index].weight)
        left -= messages[index++].weight;
    return index;
}

static size_t add_request(double due) {
    if (request_count == request_room) {
        request_room *= 2;
        requests = checked(realloc(requests, request_room * sizeof *requests));
    }
    requests[request_count] = (Request){due, 0, 0, PENDING, NONE, draw_message(), 0};
    outstanding++;
    return request_count++;
}

static void sleep_until(double at) {
    struct timespec when = absolute(at);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) == EINTR)
        ;
}

/* Handles what has happened, waiting for it up to `timeout` ms (-1: until the timer); how many events it was. */
static int take_events(int timeout) {
    static struct epoll_event events[EVENTS];
    int n = epoll_wait(poller, events, EVENTS, timeout);
    if (n < 0 && errno != EINTR)
        fail("epoll_wait", strerror(errno));
    for (int i = 0; i < n; i++) {
        if (events[i].data.u32 == NONE) {
            uint64_t expirations;
            if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
                fail("timerfd", strerror(errno));
        } else {
            handle(&events[i]);
        }
    }
    return n;
}

/* Runs until all is answered or given up. Returns 1 if it was cut short because too many had missed. */
static int run(void) {
    double awake = 0;
    double due = -log(uniform()) / options.rate;
    double planned = options.rate * options.seconds;
    for (;;) {
        double now = now_seconds();
        while (due <= now && due < options.seconds) {
            size_t index = add_request(due);
            requests[index].lag = (float)(now - due);
            start_request(index);
            due += -log(uniform()) / options.rate;
            now = now_seconds();
        }
        expire(now);
        judge(now);
        if (options.stop_share < 1 && (double)missed > options.stop_share * planned + 1)
            return 1;
        if (due >= options.seconds && outstanding == 0)
            return 0;
        if (options.rate > COALESCE_ABOVE) {
            awake = fmax(awake + COALESCE_SECONDS, now);
            sleep_until(awake);
            while (take_events(0) == EVENTS)
                ;
        } else {
            arm(fmin(due < options.seconds ? due : INFINITY, now + 0.05));
            take_events(-1);
        }
    }
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nearest rank of `count` values of which the first `known` are sorted and the rest endless; null if endless. */
static void print_quantile(const char *name, const double *values, size_t known, size_t count, double share) {
    size_t rank = (size_t)fmax(1, ceil(share * (double)count));
    if (count == 0 || rank > known)
        printf("\"%s\":null", name);
    else
        printf("\"%s\":%.4f", name, values[rank - 1] * 1e3);
}

static void print_quantiles(const char *name, double *values, size_t known, size_t count) {
    printf("\"%s\":{", name);
    print_quantile("p50", values, known, count, 0.50);
    printf(",");
    print_quantile("p99", values, known, count, 0.99);
    printf("},");
}

static void print_messages(void) {
    printf("\"messages\":[");
    for (uint16_t i = 0; i < message_count; i++)
        printf("%s{\"sent\":%zu,\"good\":%zu}", i ? "," : "", messages[i].sent, messages[i].good);
    printf("]");
}

static int report(int stopped) {
    double *latencies = checked(malloc((request_count + 1) * sizeof *latencies));
    double *lags = checked(malloc((request_count + 1) * sizeof *lags));
    static const char *const unanswered[] = {"no_connection", "broken", "timeout", "unfinished"};
    static uint64_t counts[1000 - NO_CONNECTION]; /* by status, from NO_CONNECTION on */
    size_t ok = 0, good = 0;
    for (size_t i = 0; i < request_count; i++) {
        Request *r = &requests[i];
        lags[i] = r->lag;
        good += (size_t)is_good(r);
        messages[r->message].sent++;
        messages[r->message].good += (size_t)is_good(r);
        if (r->status >= 200 && r->status < 300)
            latencies[ok++] = r->latency;
        counts[(r->status < 1000 ? r->status : 999) - NO_CONNECTION]++;
    }
    qsort(latencies, ok, sizeof *latencies, compare);
    qsort(lags, request_count, sizeof *lags, compare);
    size_t rank = (size_t)fmax(1, ceil(0.99 * (double)request_count));
    int lagged = request_count > 0 && lags[rank - 1] > options.max_lag;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                 1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);

    printf("{\"rate\":%.4f,\"seconds\":%.4f,\"cpu_s\":%.4f,", options.rate, options.seconds, cpu);
    printf("\"sent\":%zu,\"ok\":%zu,\"good\":%zu,\"stopped_early\":%s,\"lagged\":%s,", request_count, ok, good,
           stopped ? "true" : "false", lagged ? "true" : "false");
    printf("\"statuses\":{");
    const char *comma = "";
    for (int i = 0; i < 1000 - NO_CONNECTION; i++)
        if (counts[i]) {
            char code[16];
            snprintf(code, sizeof code, "%d", i + NO_CONNECTION);
            printf("%s\"%s\":%llu", comma, i <= -NO_CONNECTION ? unanswered[i] : code, (unsigned long long)counts[i]);
            comma = ",";
        }
    printf("},");
    print_quantiles("latency_ms", latencies, ok, request_count);
    print_quantiles("lag_ms", lags, request_count, request_count);
    print_messages();
    printf("}\n");
    return lagged ? 3 : 0;
}

/* Standard input has them one after the other: weight, SLO in seconds and length on a line, then so many bytes. */
static void read_messages(void) {
    Message m = {0};
    while (scanf("%lf %lf %zu", &m.weight, &m.slo, &m.length) == 3 && getchar() == '\n') {
        m.bytes = checked(malloc(m.length + 1));
        if (fread(m.bytes, 1, m.length, stdin) != m.length || message_count == UINT16_MAX)
            fail("messages", "cut short, or too many");
        messages = checked(realloc(messages, (message_count + 1) * sizeof *messages));
        messages[message_count++] = m;
        total_weight += m.weight;
    }
    if (!feof(stdin) || message_count == 0)
        fail("messages", "cannot be read");
}

static double number(const char *text, double least) {
    char *end;
    double value = strtod(text, &end);
    if (*text == 0 || *end != 0 || !isfinite(value) || value < least)
        fail(text, "must be a number, and not so small");
    return value;
}

/* Only generator.py calls this: no word has a default, or a name. */
static void read_options(int count, char **words) {
    if (count != 8)
        fail("usage", "PORT RATE SECONDS TIMEOUT MAX_LAG STOP_SHARE SEED < MESSAGES");
    options.port = number(words[1], 1);
    options.rate = number(words[2], 1e-3);
    options.seconds = number(words[3], 1e-3);
    options.timeout = number(words[4], 1e-3);
    options.max_lag = number(words[5], 0);
    options.stop_share = number(words[6], 0);
    options.seed = number(words[7], 0);
}

static void set_up(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    getrlimit(RLIMIT_NOFILE, &files);
    if ((rlim_t)max_connections + 64 > files.rlim_cur)
        max_connections = files.rlim_cur > 128 ? (uint32_t)files.rlim_cur - 64 : 64;
    /* It shares the machine with what it measures and must not wait for it, as one on another machine would not.
     * Only root may; the lag that is measured decides whether it matters. */
    struct sched_param priority = {.sched_priority = 1};
    if (sched_setscheduler(0, SCHED_RR, &priority) < 0)
        setpriority(PRIO_PROCESS, 0, -10);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)options.port);
    read_messages();
    random_state = (uint64_t)options.seed * 0x2545f4914f6cdd1dULL + 1;
    request_room = (size_t)(options.rate * options.seconds * 1.1) + 1024;
    requests = checked(malloc(request_room * sizeof *requests));
    connections = checked(calloc(max_connections, sizeof *connections));
    read_buffer = checked(malloc(READ_SIZE));
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {EPOLLIN, {.u32 = NONE}};
    if (poller < 0 || timer < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event) < 0)
        fail("epoll", strerror(errno));
}

int main(int count, char **words) {
    signal(SIGPIPE, SIG_IGN);
    read_options(count, words);
    set_up();
    clock_gettime(CLOCK_MONOTONIC, &start_time);
    int stopped = run();
    return report(stopped);
}
