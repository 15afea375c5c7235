/* Clients of an echo server: one thread, one epoll, closed loop.
 *
 *     cc -O2 -o load load.c -ldl && ./load --connections 64 --size 1024 --seconds 2 PORT
 *
 * Each client sends a message, awaits the whole echo, compares it byte for byte, and sends the next. Only replies that
 * came back whole, and right, in the measured time count. The result is one JSON object on standard output; what goes
 * wrong is one line on standard error, and status 1. `load --help` lists the options.
 *
 * With weights of routes each busy client draws the route of its next message by them: the first word of a line, which
 * tells the server how long it takes. Replies are timed route by route. What is drawn is the same in every run.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    VARIANTS = 8,
    EVENTS = 256,
    BUFFER = 1 << 20,
    WATCHED = 16,
    PATIENCE = 10,       /* seconds */
    DEAF_SIZE = 1 << 14, /* bytes of a message that is sent by who does not read: large, so that all is soon full */
    DEAF_TURN = 4,       /* such messages at a time, so that the others have their turn */
};
static const double STUCK = 0.2; /* seconds without progress, and the client is stuck */
enum kind { FAST, SLOW, IDLE, STALLED, DEAF, SILENT, KINDS };
static const char *NAMES[KINDS] = {"rest", "slow", "idle", "stalled", "deaf", "silent"};
/* What a message is. A fast client's are plain, a slow client's begin with S, unless all busy clients draw theirs: a
 * route is the word that a line begins with; one that sleeps now and then is drawn as two, of which one says S next. */
enum route { PLAIN, CAPITAL, Q, M, S, V, V_SLEEPS, ROUTES };
static const struct { const char *name, *begins; } ROUTE[ROUTES] = {
    {"rest", ""}, {"slow", "S"}, {"q", "q "}, {"m", "m "}, {"s", "s "}, {"v", "v "}, {"v_sleeps", "v S"},
};

struct client {
    int fd;
    enum kind kind;
    enum route route; /* of the message under way */
    void *tls;
    unsigned number, messages; /* of the client; sent by it */
    size_t sent, got;          /* of the message under way */
    uint32_t events;           /* that are awaited */
    double since;              /* when the message was begun, or the last thing that an attacker could do */
};

struct times { /* of replies, in microseconds */
    float *values;
    size_t count, room;
};

struct usage {
    double cpu;
    long memory, threads, descriptors;
};

static struct {
    int port, count[KINDS], weight[ROUTES], lines, tls, churn, watched;
    pid_t pids[WATCHED];
    size_t size;
    double seconds, warmup, until_cut;
} options = {.size = 64, .seconds = 2.0, .warmup = 0.5};

static char *texts[ROUTES][VARIANTS];
static unsigned weights; /* of all routes together; 0: none is drawn */
static char *deaf_text;
static char *buffer;
static int poller;
static struct times times[ROUTES];
static struct { int closed; double first, last; } cut[KINDS];

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    exit(1);
}

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

/* ---- TLS: the few functions of OpenSSL that are needed, found at run time, so that no headers are. ---- */

static void *(*tls_method)(void), *(*tls_context)(const void *), *(*tls_new)(void *);
static long (*tls_control)(void *, int, long, void *);
static int (*tls_set_fd)(void *, int), (*tls_connect)(void *), (*tls_read)(void *, void *, int);
static int (*tls_write)(void *, const void *, int), (*tls_error)(const void *, int);
static void *context;

static void load_tls(void) {
    void *library = dlopen("libssl.so.3", RTLD_NOW);
    if (!library) library = dlopen("libssl.so.1.1", RTLD_NOW);
    if (!library) fail("no libssl.so.3 and no libssl.so.1.1 here, so there are no TLS clients");
    struct { const char *name; void *place; } wanted[] = {
        {"TLS_client_method", &tls_method}, {"SSL_CTX_new", &tls_context}, {"SSL_new", &tls_new},
        {"SSL_CTX_ctrl", &tls_control},     {"SSL_set_fd", &tls_set_fd},   {"SSL_connect", &tls_connect},
        {"SSL_read", &tls_read},            {"SSL_write", &tls_write},     {"SSL_get_error", &tls_error},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *found = dlsym(library, wanted[i].name);
        if (!found) fail("libssl has no %s", wanted[i].name);
        memcpy(wanted[i].place, &found, sizeof found);
    }
    context = tls_context(tls_method());
    if (!context) fail("OpenSSL makes no context");
    tls_control(context, 33 /* SSL_CTRL_MODE */, 1 | 2 /* partial writes, from a buffer that may move */, NULL);
}

/* Return the bytes that were sent or read; 0: none for now; -1: the connection is over. */
static ssize_t judged(struct client *client, int done) {
    if (done > 0) return done;
    int error = tls_error(client->tls, done);
    return error == 2 || error == 3 ? 0 : -1; /* SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE */
}

static ssize_t put(struct client *client, const char *data, size_t size) {
    if (client->tls) return judged(client, tls_write(client->tls, data, (int)size));
    ssize_t done = send(client->fd, data, size, MSG_NOSIGNAL);
    return done >= 0 ? done : errno == EAGAIN || errno == EINTR ? 0 : -1;
}

static ssize_t take(struct client *client) {
    if (client->tls) return judged(client, tls_read(client->tls, buffer, BUFFER));
    ssize_t done = recv(client->fd, buffer, BUFFER, 0);
    return done > 0 ? done : done < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
}

/* ---- The server process: what it uses, from /proc and its CPU clock. ---- */

static struct usage usage_now(void) {
    struct usage sum = {0};
    for (int i = 0; i < options.watched; i++) {
        char path[64], line[256];
        clockid_t clock;
        struct timespec used;
        if (clock_getcpuclockid(options.pids[i], &clock) || clock_gettime(clock, &used))
            fail("process %d cannot be watched", (int)options.pids[i]);
        sum.cpu += (double)used.tv_sec + (double)used.tv_nsec * 1e-9;
        snprintf(path, sizeof path, "/proc/%d/status", (int)options.pids[i]);
        FILE *status = fopen(path, "r");
        long value;
        while (status && fgets(line, sizeof line, status)) {
            if (sscanf(line, "VmRSS: %ld", &value) == 1) sum.memory += value;
            if (sscanf(line, "Threads: %ld", &value) == 1) sum.threads += value;
        }
        if (status) fclose(status);
        snprintf(path, sizeof path, "/proc/%d/fd", (int)options.pids[i]);
        DIR *open_files = opendir(path);
        for (struct dirent *entry; open_files && (entry = readdir(open_files));)
            sum.descriptors += entry->d_name[0] != '.';
        if (open_files) closedir(open_files);
    }
    return sum;
}

static void print_usage(const char *name, struct usage usage) {
    printf("\"%s\": {\"cpu_seconds\": %.6f, \"rss_kib\": %ld, \"threads\": %ld, \"descriptors\": %ld}", name, usage.cpu,
           usage.memory, usage.threads, usage.descriptors);
}

/* ---- Clients. ---- */

static char *make_text(size_t size, const char *first) {
    static unsigned state = 12345;
    char *text = malloc(size);
    if (!text) fail("no memory");
    for (size_t i = 0; i < size; i++) text[i] = (char)('a' + ((state = state * 1103515245u + 12345u) >> 16) % 26);
    if (options.lines) text[size - 1] = '\n';
    memcpy(text, first, strlen(first));
    return text;
}

static void make_texts(void) {
    for (int route = 0; route < (weights ? ROUTES : Q); route++)
        for (int variant = 0; variant < VARIANTS; variant++)
            texts[route][variant] = make_text(options.size, ROUTE[route].begins);
    deaf_text = make_text(DEAF_SIZE, "");
}

/* Return the route of a client's first message: with weights that which returns at once, for a client may only warm. */
static enum route first_route(enum kind kind) {
    return weights ? Q : kind == SLOW ? CAPITAL : PLAIN;
}

/* Return a route by the weights, by xorshift with a fixed seed. */
static enum route drawn(void) {
    static uint32_t state = 2463534242u;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    int at = (int)(state % weights), route = Q;
    while (at >= options.weight[route]) at -= options.weight[route++];
    return (enum route)route;
}

/* Return the message that a client has to send, or to get back. */
static const char *text_of(const struct client *client) {
    return texts[client->route][(client->number + client->messages) % VARIANTS];
}

static int connected(unsigned number, int room) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    if (fd < 0) fail("no socket for client %u: %s", number, strerror(errno));
    /* Addresses of the loopback network's own, in turn, so that the ports of one do not run out. */
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + number / 10000);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons((uint16_t)options.port);
    struct timeval patience = {.tv_sec = PATIENCE};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    if (room) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    if (number >= 10000 && bind(fd, (void *)&from, sizeof from)) fail("client %u: %s", number, strerror(errno));
    if (connect(fd, (void *)&to, sizeof to)) fail("client %u cannot connect: %s", number, strerror(errno));
    return fd;
}

/* Connect, and finish the TLS handshake if there is one; the socket still blocks. */
static struct client opened(unsigned number, enum kind kind) {
    struct client client = {.fd = connected(number, kind == DEAF ? 4096 : 0), .kind = kind, .number = number};
    client.route = first_route(kind);
    if (options.tls && kind != SILENT) {
        client.tls = tls_new(context);
        tls_set_fd(client.tls, client.fd);
        if (tls_connect(client.tls) != 1) fail("client %u: the TLS handshake failed", number);
    }
    client.since = now();
    return client;
}

/* Send one message and compare its echo, on a socket that blocks. */
static void echo_once(struct client *client) {
    size_t sent = 0, got = 0;
    const char *text = text_of(client);
    while (got < options.size) {
        if (sent < options.size) {
            ssize_t done = put(client, text + sent, options.size - sent);
            if (done <= 0) fail("client %u: not sent within %d s", client->number, PATIENCE);
            sent += (size_t)done;
            if (sent < options.size) continue;
        }
        ssize_t done = take(client);
        if (done <= 0) fail("client %u: no echo within %d s", client->number, PATIENCE);
        if (got + (size_t)done > options.size || memcmp(buffer, text + got, (size_t)done))
            fail("client %u: what came back is not what was sent", client->number);
        got += (size_t)done;
    }
    client->messages++;
}

static void await(struct client *client, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = client};
    int operation = client->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (client->events != events && epoll_ctl(poller, operation, client->fd, &event))
        fail("epoll: %s", strerror(errno));
    client->events = events;
}

static void over(struct client *client) {
    if (client->kind == FAST || client->kind == SLOW)
        fail("the server closed client %u after %u messages", client->number, client->messages);
    double seconds = now() - client->since;
    int kind = client->kind, closed = cut[kind].closed++;
    if (!closed || seconds < cut[kind].first) cut[kind].first = seconds;
    if (!closed || seconds > cut[kind].last) cut[kind].last = seconds;
    epoll_ctl(poller, EPOLL_CTL_DEL, client->fd, NULL);
    close(client->fd);
    client->fd = -1;
}

static void push(struct client *client) {
    ssize_t done = put(client, text_of(client) + client->sent, options.size - client->sent);
    if (done < 0) over(client);
    else client->sent += (size_t)done;
    if (client->fd >= 0) await(client, client->sent < options.size ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void next(struct client *client) {
    if (weights) client->route = drawn();
    client->since = now();
    client->sent = client->got = 0;
    push(client);
}

static void note(struct client *client, double at) {
    struct times *list = &times[client->route];
    if (list->count == list->room) {
        list->room = list->room ? 2 * list->room : 1 << 16;
        list->values = realloc(list->values, list->room * sizeof *list->values);
        if (!list->values) fail("no memory");
    }
    list->values[list->count++] = (float)((at - client->since) * 1e6);
}

static void pull(struct client *client, double from) {
    ssize_t done;
    do { /* with TLS more may be waiting inside, of which the kernel knows nothing */
        done = take(client);
        if (done < 0) { over(client); return; }
        if (client->got + (size_t)done > options.size || memcmp(buffer, text_of(client) + client->got, (size_t)done))
            fail("client %u: what came back is not what was sent", client->number);
        client->got += (size_t)done;
    } while (client->tls && done > 0 && client->got < options.size);
    if (client->got < options.size) return;
    double at = now();
    if (at >= from) note(client, at);
    client->messages++;
    next(client);
}

/* A client that does not play by the rules: it stalls, never reads, is silent, or is only idle. */
static void misbehave(struct client *client, uint32_t events) {
    if (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) { over(client); return; }
    if (client->kind == DEAF) {
        for (int turn = 0; turn < DEAF_TURN; turn++) {
            ssize_t done = put(client, deaf_text + client->sent, DEAF_SIZE - client->sent);
            if (done < 0) { over(client); return; }
            if (done == 0) return;
            client->since = now();
            client->sent = (client->sent + (size_t)done) % DEAF_SIZE;
        }
    } else if (events & EPOLLIN && take(client) < 0)
        over(client);
}

static void begin(struct client *client) {
    fcntl(client->fd, F_SETFL, O_NONBLOCK);
    switch (client->kind) {
    case FAST: case SLOW: next(client); return;
    case STALLED:
        if (put(client, text_of(client), options.size / 2) != (ssize_t)(options.size / 2)) fail("a stalled client");
        client->since = now();
        await(client, EPOLLIN | EPOLLRDHUP);
        return;
    case DEAF: await(client, EPOLLOUT | EPOLLRDHUP); return;
    default: await(client, EPOLLIN | EPOLLRDHUP);
    }
}

static int attackers_left(void) {
    int left = 0;
    for (int kind = STALLED; kind < KINDS; kind++) left += options.count[kind] - cut[kind].closed;
    return left;
}

static void serve_until(double end, double from, int only_attackers) {
    struct epoll_event events[EVENTS];
    while (now() < end && (!only_attackers || attackers_left())) {
        int ready = epoll_wait(poller, events, EVENTS, 10);
        for (int i = 0; i < ready; i++) {
            struct client *client = events[i].data.ptr;
            if (client->kind != FAST && client->kind != SLOW) { misbehave(client, events[i].events); continue; }
            if (events[i].events & EPOLLOUT) push(client);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) pull(client, from);
        }
    }
}

/* Go on until nobody who never reads can send any more. */
static void serve_until_stuck(const struct client *clients, int total) {
    for (double end = now() + PATIENCE; now() < end;) {
        int stuck = 1;
        for (int i = 0; i < total; i++)
            if (clients[i].kind == DEAF && clients[i].fd >= 0 && now() - clients[i].since < STUCK) stuck = 0;
        if (stuck) return;
        serve_until(now() + STUCK / 10, 1e300, 0);
    }
    fail("who never reads could still send after %d s", PATIENCE);
}

/* ---- Results. ---- */

static int by_value(const void *one, const void *other) {
    float a = *(const float *)one, b = *(const float *)other;
    return (a > b) - (a < b);
}

static void print_times(const char *name, struct times *list, double seconds) {
    qsort(list->values, list->count, sizeof *list->values, by_value);
    printf(", \"%s\": {\"replies\": %zu, \"per_second\": %.1f", name, list->count, (double)list->count / seconds);
    if (list->count)
        printf(", \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f",
               list->values[list->count / 2], list->values[list->count * 99 / 100],
               list->values[list->count * 999 / 1000], list->values[list->count - 1]);
    printf("}");
}

static void print_cut(int kind) {
    if (!options.count[kind]) return;
    printf(", \"%s\": {\"count\": %d, \"closed\": %d", NAMES[kind], options.count[kind], cut[kind].closed);
    if (cut[kind].closed) printf(", \"first_s\": %.3f, \"last_s\": %.3f", cut[kind].first, cut[kind].last);
    printf("}");
}

/* Have one client come and go: what a server does once, at its first client or at its end, is not measured. */
static void warm(void) {
    struct client client = opened(0, FAST);
    for (int i = 0; i < 10; i++) echo_once(&client);
    close(client.fd);
    usleep(50000);
}

static void churn(void) {
    struct usage before = usage_now();
    double start = now();
    for (int i = 0; i < options.churn; i++) {
        struct client client = opened((unsigned)i, FAST);
        echo_once(&client);
        close(client.fd);
    }
    double seconds = now() - start;
    usleep(200000);
    printf("{\"churn\": %d, \"seconds\": %.3f, \"per_second\": %.1f, ", options.churn, seconds, options.churn / seconds);
    print_usage("before", before);
    printf(", ");
    print_usage("after", usage_now());
    printf("}\n");
}

static void measure(void) {
    int total = 0, made = 0;
    for (int kind = 0; kind < KINDS; kind++) total += options.count[kind];
    struct client *clients = calloc((size_t)total, sizeof *clients);
    struct usage alone = usage_now();
    for (int kind = KINDS - 1; kind >= 0; kind--)
        for (int i = 0; i < options.count[kind]; i++, made++) {
            clients[made] = opened((unsigned)made, (enum kind)kind);
            if (kind == IDLE) echo_once(&clients[made]); /* so it is certain that the server has it */
            if (kind > SLOW) begin(&clients[made]);
        }
    for (int i = 0; i < total; i++)
        if (clients[i].kind <= SLOW) begin(&clients[i]);
    serve_until(now() + options.warmup, 1e300, 0);
    serve_until_stuck(clients, total);
    struct usage before = usage_now();
    double start = now();
    serve_until(start + options.seconds, start, 0);
    double seconds = now() - start;
    struct usage after = usage_now();
    struct times measured[ROUTES];
    memcpy(measured, times, sizeof times);
    if (options.until_cut > 0) serve_until(start + options.until_cut, 1e300, 1);
    printf("{\"size\": %zu, \"connections\": %d, \"seconds\": %.4f", options.size,
           options.count[FAST] + options.count[SLOW], seconds);
    size_t replies = 0;
    for (int route = 0; route < ROUTES; route++) {
        replies += measured[route].count;
        if (route == PLAIN ? !weights : route == CAPITAL ? options.count[SLOW] : options.weight[route])
            print_times(ROUTE[route].name, &measured[route], seconds);
    }
    for (int kind = IDLE; kind < KINDS; kind++) print_cut(kind);
    if (options.watched) {
        printf(", ");
        print_usage("alone", alone);
        printf(", ");
        print_usage("before", before);
        printf(", ");
        print_usage("after", after);
        if (replies) printf(", \"cpu_us_per_reply\": %.3f", (after.cpu - before.cpu) * 1e6 / (double)replies);
    }
    printf("}\n");
}

static const char HELP[] =
    "usage: load [OPTION VALUE]... PORT\n"
    "  --connections N  busy clients (default 64)\n"
    "  --slow N         of them, those whose messages begin with S; reported apart (0)\n"
    "  --q N --m N --s N --v N --v-sleeps N\n"
    "                   messages are lines that begin with one of these words; of so many in all, how many with each,\n"
    "                   on average; --v-sleeps: the word is v, and S comes next; reported apart (0)\n"
    "  --size BYTES     of a message (64)\n"
    "  --seconds S      that are measured (2)\n"
    "  --warmup S       that are not, before (0.5)\n"
    "  --idle N         clients that echo one message and stay (0)\n"
    "  --stalled N      clients that send half a message and stop (0)\n"
    "  --deaf N         clients that send and never read (0)\n"
    "  --silent N       clients that send nothing, not even a TLS handshake (0)\n"
    "  --until-cut S    go on until all of the latter three are cut, at most so long (0)\n"
    "  --lines 1        messages end in a newline\n"
    "  --tls 1          TLS, without looking at the certificate\n"
    "  --pid PID        watch this process of the server; may be given several times\n"
    "  --churn N        instead of all that: N clients, one after the other, that echo one message and leave\n";

static void set(const char *name, const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (*end || end == text || value < 0) fail("%s %s: not a number, 0 or more", name, text);
    if (!strcmp(name, "--connections")) options.count[FAST] = (int)value;
    else if (!strcmp(name, "--slow")) options.count[SLOW] = (int)value;
    else if (!strcmp(name, "--idle")) options.count[IDLE] = (int)value;
    else if (!strcmp(name, "--stalled")) options.count[STALLED] = (int)value;
    else if (!strcmp(name, "--deaf")) options.count[DEAF] = (int)value;
    else if (!strcmp(name, "--silent")) options.count[SILENT] = (int)value;
    else if (!strcmp(name, "--q")) options.weight[Q] = (int)value;
    else if (!strcmp(name, "--m")) options.weight[M] = (int)value;
    else if (!strcmp(name, "--s")) options.weight[S] = (int)value;
    else if (!strcmp(name, "--v")) options.weight[V] = (int)value;
    else if (!strcmp(name, "--v-sleeps")) options.weight[V_SLEEPS] = (int)value;
    else if (!strcmp(name, "--size")) options.size = (size_t)value;
    else if (!strcmp(name, "--seconds")) options.seconds = value;
    else if (!strcmp(name, "--warmup")) options.warmup = value;
    else if (!strcmp(name, "--until-cut")) options.until_cut = value;
    else if (!strcmp(name, "--lines")) options.lines = value > 0;
    else if (!strcmp(name, "--tls")) options.tls = value > 0;
    else if (!strcmp(name, "--churn")) options.churn = (int)value;
    else if (!strcmp(name, "--pid") && options.watched < WATCHED) options.pids[options.watched++] = (pid_t)value;
    else fail("unknown option %s, or too often; see --help", name);
}

int main(int count, char **words) {
    options.count[FAST] = 64;
    if (count < 2 || !strcmp(words[1], "--help")) { fputs(HELP, stdout); return count < 2; }
    int at = 1;
    for (; at + 1 < count; at += 2) set(words[at], words[at + 1]);
    if (at != count - 1 || (options.port = atoi(words[at])) <= 0) fail("no port; see --help");
    for (int route = Q; route < ROUTES; route++) weights += (unsigned)options.weight[route];
    if (weights && options.count[SLOW]) fail("--slow is for clients that draw no routes");
    if (weights) options.lines = 1;
    if (options.size < (weights ? 4 : 2)) fail("--size has to be %d or more", weights ? 4 : 2);
    options.count[FAST] -= options.count[SLOW];
    if (options.count[FAST] < 0) fail("more slow clients than clients");
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (options.tls) load_tls();
    buffer = malloc(BUFFER);
    poller = epoll_create1(EPOLL_CLOEXEC);
    make_texts();
    warm();
    if (options.churn) churn();
    else measure();
    return 0;
}
