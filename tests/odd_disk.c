/* LD_PRELOAD: a disk with a will of its own, below one folder. tests/odd_disk.py builds it and says how it is used.

ODD_DISK_BELOW   the folder, absolute and without links on its way
ODD_DISK_RULES   NAME=ERRNO[@N],... : the Nth call of NAME there and every later one fail so; N is 1 unless given.
                 NAME=ERRNO[@N]! : that one call alone.
                 NAME is one of `names`: `open` and `read` of files and folders, `write` of all that write bytes,
                 `allocate` of ftruncate(2),
                 `change` of whatever changes the disk, `any` of every call. `flock=ok`: it does nothing and says that it locked.
                 NAME=kill@N, NAME=stop@N: the process sends itself SIGKILL or SIGSTOP just before the Nth call. A write that
                 is to be killed is made for half of its bytes first.
ODD_DISK_ONLY    count only calls whose path has this text in it; with `$` after it, at its end
ODD_DISK_COUNT   a file; at the end of the process `NAME COUNT` of each kind of call is appended to it, a line each
ODD_DISK_FAILED  a file; `NAME PATH` of the first call that failed by a rule is appended to it

odd_disk_arm() reads these variables again, and counts from 0: for a process that was forked. odd_disk_report() appends the
counts now: for one that ends by _exit.
*/
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

enum kind {
    SYMLINK, LINK, RENAME, UNLINK, RMDIR, MKDIR, OPEN, READ, STAT, WRITE, ALLOCATE, FALLOCATE, UTIME, FSYNC, FLOCK, CLONE,
    CHANGE, ANY, KINDS
};
static const char *names[KINDS] = {"symlink", "link", "rename", "unlink", "rmdir", "mkdir", "open", "read", "stat",
                                   "write", "allocate", "fallocate", "utime", "fsync", "flock", "clone", "change", "any"};
static struct { int code; long from; int once; } rules[KINDS];
static atomic_long counts[KINDS];
static char below[PATH_MAX], only[PATH_MAX];
static size_t below_size;
enum { NOTHING = -1 /* of `flock=ok` */, KILL = -2, STOP = -3 };
static char failed_at[PATH_MAX];
static atomic_int has_failed;

static int code_of(const char *value) {
    if (!strncmp(value, "kill", 4)) return KILL;
    if (!strncmp(value, "stop", 4)) return STOP;
    return strcmp(value, "ok") ? atoi(value) : NOTHING;
}

__attribute__((constructor)) void odd_disk_arm(void) {
    const char *folder = getenv("ODD_DISK_BELOW"), *text = getenv("ODD_DISK_RULES"), *failed = getenv("ODD_DISK_FAILED");
    below_size = 0;
    memset(below, 0, sizeof below);
    const char *text_of_only = getenv("ODD_DISK_ONLY");
    strncpy(only, text_of_only ? text_of_only : "", sizeof only - 1);
    memset(rules, 0, sizeof rules);
    memset(counts, 0, sizeof counts);
    memset(failed_at, 0, sizeof failed_at);
    has_failed = 0;
    if (failed) strncpy(failed_at, failed, sizeof failed_at - 1);
    if (folder) below_size = strlen(strncpy(below, folder, sizeof below - 1));
    char *copy = strdup(text ? text : ""), *rest = copy, *rule;
    while ((rule = strsep(&rest, ",")) != NULL) {
        char *value = strchr(rule, '='), *from = strchr(rule, '@');
        if (!value) continue;
        *value++ = 0;
        for (int kind = 0; kind < KINDS; kind++)
            if (!strcmp(rule, names[kind])) {
                rules[kind].code = code_of(value);
                rules[kind].from = from ? atol(from + 1) : 1;
                rules[kind].once = strchr(value, '!') != NULL || rules[kind].code <= KILL;
            }
    }
    free(copy);
}

__attribute__((destructor)) void odd_disk_report(void) {
    const char *path = getenv("ODD_DISK_COUNT");
    if (!path || !below_size) return;
    FILE *out = fopen(path, "a");
    for (int kind = 0; out && kind < KINDS; kind++) fprintf(out, "%s %ld\n", names[kind], atomic_load(&counts[kind]));
    if (out) fclose(out);
}

static int is_meant(const char *path) {
    size_t size = strlen(only), length = strlen(path);
    if (!size || only[size - 1] != '$') return strstr(path, only) != NULL;
    return length >= size - 1 && !strncmp(path + length - (size - 1), only, size - 1);
}

static int is_below(const char *path) {
    return below_size && !strncmp(path, below, below_size) && (path[below_size] == '/' || !path[below_size]) && is_meant(path);
}

/* Put the path of a descriptor into `path`; return its length, 0 where it has none. */
static size_t path_of(int fd, char path[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    path[size < 0 ? 0 : size] = 0;
    return size < 0 ? 0 : size;
}

static int fd_below(int fd) {
    char path[PATH_MAX];
    return below_size && path_of(fd, path) && is_below(path);
}

static int at_below(int at, const char *name) {
    char path[PATH_MAX];
    if (!below_size) return 0;
    if (name && name[0] == '/') return is_below(name);
    if (at == AT_FDCWD ? !getcwd(path, sizeof path) : !path_of(at, path)) return 0;
    size_t size = strlen(path);
    snprintf(path + size, sizeof path - size, "/%s", name ? name : "");
    return is_below(path);
}

static int due(enum kind kind) {
    long now = atomic_fetch_add(&counts[kind], 1) + 1;
    int is_due = rules[kind].once ? now == rules[kind].from : now >= rules[kind].from;
    return rules[kind].code && is_due ? rules[kind].code : 0;
}

/* Append `NAME PATH` to ODD_DISK_FAILED for the first call that fails. */
static void tell(enum kind kind, int fd, const char *path) {
    char link[64], folder[PATH_MAX] = "", line[2 * PATH_MAX + 64];
    if (!failed_at[0] || atomic_exchange(&has_failed, 1)) return;
    if (fd >= 0) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        if (readlink(link, folder, sizeof folder - 1) < 0) folder[0] = 0;
    }
    int size = snprintf(line, sizeof line, "%s %s/%s\n", names[kind], folder, path ? path : "");
    int out = ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open"))(failed_at, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (out < 0) return;
    if (((ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(out, line, size) < 0) {}
    close(out);
}

/* Return what this call is to fail with, 0 for nothing. */
static int fate(enum kind kind, int changes) {
    int own = due(kind), every = due(ANY), change = changes ? due(CHANGE) : 0;
    return own ? own : change ? change : every;
}

/* Send the signal of KILL or STOP to this thread, which could go on else; return the code that the call is to fail with, 0
   for none. */
static int signalled(int code) {
    if (code == KILL || code == STOP) raise(code == KILL ? SIGKILL : SIGSTOP);
    return code == KILL || code == STOP ? 0 : code;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL_IF(is_there, kind, changes, failed) FAIL_AT(is_there, kind, changes, failed, -1, NULL)
#define FAIL_AT(is_there, kind, changes, failed, fd, path)      \
    do {                                                        \
        int code_;                                              \
        if ((is_there) && (code_ = signalled(fate(kind, changes))) != 0) { \
            tell(kind, fd, path);                               \
            errno = code_;                                      \
            return failed;                                      \
        }                                                       \
    } while (0)

/* As FAIL_AT; a write that is to be killed is made for half of its bytes by the call `half` first. */
#define FAIL_WRITE(fd, half)                              \
    do {                                                  \
        int code_ = fd_below(fd) ? fate(WRITE, 1) : 0;    \
        if (code_ == KILL && size > 1 && (half) < 0) {}   \
        if ((code_ = signalled(code_)) != 0) {            \
            tell(WRITE, fd, NULL);                        \
            errno = code_;                                \
            return -1;                                    \
        }                                                 \
    } while (0)

int symlink(const char *to, const char *path) { FAIL_AT(at_below(AT_FDCWD, path), SYMLINK, 1, -1, -1, path); return REAL(symlink)(to, path); }
int symlinkat(const char *to, int at, const char *path) { FAIL_AT(at_below(at, path), SYMLINK, 1, -1, at, path); return REAL(symlinkat)(to, at, path); }
int link(const char *from, const char *path) { FAIL_AT(at_below(AT_FDCWD, path), LINK, 1, -1, -1, path); return REAL(link)(from, path); }
int linkat(int from_at, const char *from, int at, const char *path, int flags) {
    FAIL_AT(at_below(at, path), LINK, 1, -1, at, path);
    return REAL(linkat)(from_at, from, at, path, flags);
}
int rename(const char *from, const char *path) { FAIL_AT(at_below(AT_FDCWD, path), RENAME, 1, -1, -1, path); return REAL(rename)(from, path); }
int renameat(int from_at, const char *from, int at, const char *path) {
    FAIL_AT(at_below(at, path), RENAME, 1, -1, at, path);
    return REAL(renameat)(from_at, from, at, path);
}
int unlink(const char *path) { FAIL_AT(at_below(AT_FDCWD, path), UNLINK, 1, -1, -1, path); return REAL(unlink)(path); }
int unlinkat(int at, const char *path, int flags) {
    FAIL_AT(at_below(at, path), flags & AT_REMOVEDIR ? RMDIR : UNLINK, 1, -1, at, path);
    return REAL(unlinkat)(at, path, flags);
}
int rmdir(const char *path) { FAIL_AT(at_below(AT_FDCWD, path), RMDIR, 1, -1, -1, path); return REAL(rmdir)(path); }
int mkdir(const char *path, mode_t mode) { FAIL_AT(at_below(AT_FDCWD, path), MKDIR, 1, -1, -1, path); return REAL(mkdir)(path, mode); }
int mkdirat(int at, const char *path, mode_t mode) { FAIL_AT(at_below(at, path), MKDIR, 1, -1, at, path); return REAL(mkdirat)(at, path, mode); }

#define OPENED(name)                                                                             \
    int name(const char *path, int flags, ...) {                                                 \
        va_list more;                                                                            \
        va_start(more, flags);                                                                   \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;                \
        va_end(more);                                                                            \
        FAIL_AT(at_below(AT_FDCWD, path), OPEN, (flags & (O_CREAT | O_ACCMODE)) != O_RDONLY, -1, -1, path); \
        return REAL(name)(path, flags, mode);                                                    \
    }
#define OPENED_AT(name)                                                                    \
    int name(int at, const char *path, int flags, ...) {                                   \
        va_list more;                                                                      \
        va_start(more, flags);                                                             \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;          \
        va_end(more);                                                                      \
        FAIL_AT(at_below(at, path), OPEN, (flags & (O_CREAT | O_ACCMODE)) != O_RDONLY, -1, at, path); \
        return REAL(name)(at, path, flags, mode);                                          \
    }
OPENED(open)
OPENED(open64)
OPENED_AT(openat)
OPENED_AT(openat64)

ssize_t read(int fd, void *into, size_t size) { FAIL_AT(fd_below(fd), READ, 0, -1, fd, NULL); return REAL(read)(fd, into, size); }
ssize_t pread(int fd, void *into, size_t size, off_t at) { FAIL_AT(fd_below(fd), READ, 0, -1, fd, NULL); return REAL(pread)(fd, into, size, at); }
ssize_t pread64(int fd, void *into, size_t size, off64_t at) { FAIL_AT(fd_below(fd), READ, 0, -1, fd, NULL); return REAL(pread64)(fd, into, size, at); }
DIR *opendir(const char *path) { FAIL_AT(at_below(AT_FDCWD, path), OPEN, 0, NULL, -1, path); return REAL(opendir)(path); }
DIR *fdopendir(int fd) { FAIL_AT(fd_below(fd), OPEN, 0, NULL, fd, NULL); return REAL(fdopendir)(fd); }

#define LOOKED_AT(name, type) \
    int name(const char *path, struct type *into) { FAIL_AT(at_below(AT_FDCWD, path), STAT, 0, -1, -1, path); return REAL(name)(path, into); }
LOOKED_AT(stat, stat)
LOOKED_AT(stat64, stat64)
LOOKED_AT(lstat, stat)
LOOKED_AT(lstat64, stat64)
int fstatat(int at, const char *path, struct stat *into, int flags) { FAIL_AT(at_below(at, path), STAT, 0, -1, at, path); return REAL(fstatat)(at, path, into, flags); }
int fstatat64(int at, const char *path, struct stat64 *into, int flags) { FAIL_AT(at_below(at, path), STAT, 0, -1, at, path); return REAL(fstatat64)(at, path, into, flags); }

ssize_t write(int fd, const void *from, size_t size) { FAIL_AT(fd_below(fd), WRITE, 1, -1, fd, NULL); return REAL(write)(fd, from, size); }
ssize_t pwrite(int fd, const void *from, size_t size, off_t at) { FAIL_AT(fd_below(fd), WRITE, 1, -1, fd, NULL); return REAL(pwrite)(fd, from, size, at); }
ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) { FAIL_AT(fd_below(fd), WRITE, 1, -1, fd, NULL); return REAL(pwrite64)(fd, from, size, at); }
ssize_t sendfile(int out, int in, off_t *at, size_t size) { FAIL_AT(fd_below(out), WRITE, 1, -1, out, NULL); return REAL(sendfile)(out, in, at, size); }
ssize_t sendfile64(int out, int in, off64_t *at, size_t size) { FAIL_AT(fd_below(out), WRITE, 1, -1, out, NULL); return REAL(sendfile64)(out, in, at, size); }
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *at, size_t size, unsigned flags) {
    FAIL_AT(fd_below(out), WRITE, 1, -1, out, NULL);
    return REAL(copy_file_range)(in, from, out, at, size, flags);
}
int ftruncate(int fd, off_t size) { FAIL_AT(fd_below(fd), ALLOCATE, 1, -1, fd, NULL); return REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { FAIL_AT(fd_below(fd), ALLOCATE, 1, -1, fd, NULL); return REAL(ftruncate64)(fd, size); }
static int allocation(int fd) {
    int code = fd_below(fd) ? signalled(fate(ALLOCATE, 1)) : 0;
    if (code) tell(ALLOCATE, fd, NULL);
    return code;
}
int posix_fallocate(int fd, off_t at, off_t size) { /* answers the code itself */
    int code = allocation(fd);
    return code ? code : REAL(posix_fallocate)(fd, at, size);
}
int posix_fallocate64(int fd, off64_t at, off64_t size) {
    int code = allocation(fd);
    return code ? code : REAL(posix_fallocate64)(fd, at, size);
}
int fallocate(int fd, int mode, off_t at, off_t size) { FAIL_AT(fd_below(fd), FALLOCATE, 1, -1, fd, NULL); return REAL(fallocate)(fd, mode, at, size); }
int fallocate64(int fd, int mode, off64_t at, off64_t size) { FAIL_AT(fd_below(fd), FALLOCATE, 1, -1, fd, NULL); return REAL(fallocate64)(fd, mode, at, size); }
int utimensat(int at, const char *path, const struct timespec times[2], int flags) {
    FAIL_AT(at_below(at, path), UTIME, 1, -1, at, path);
    return REAL(utimensat)(at, path, times, flags);
}
int futimens(int fd, const struct timespec times[2]) { FAIL_AT(fd_below(fd), UTIME, 1, -1, fd, NULL); return REAL(futimens)(fd, times); }
int fsync(int fd) { FAIL_AT(fd_below(fd), FSYNC, 1, -1, fd, NULL); return REAL(fsync)(fd); }
int fdatasync(int fd) { FAIL_AT(fd_below(fd), FSYNC, 1, -1, fd, NULL); return REAL(fdatasync)(fd); }
int flock(int fd, int operation) {
    int code = fd_below(fd) ? fate(FLOCK, 0) : 0;
    if (code == NOTHING) return 0;
    if ((code = signalled(code)) != 0) {
        errno = code;
        return -1;
    }
    return REAL(flock)(fd, operation);
}
int ioctl(int fd, unsigned long request, ...) {
    va_list more;
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    if (request == 0x40049409) FAIL_AT(fd_below(fd), CLONE, 1, -1, fd, NULL); /* FICLONE */
    return REAL(ioctl)(fd, request, argument);
}
