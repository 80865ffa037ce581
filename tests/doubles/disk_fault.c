/* Preloaded into a process: makes the n-th write to a file fail, as a dying or read-only disk does.
 *
 * HEALCTL_FAULT names a file with one line, "ERRNO N PATH_PART": the N-th call from now on that writes, syncs or cuts a
 * file whose path holds PATH_PART, and each after it, fails with ERRNO. Without the file, or with N = 0, nothing fails.
 * The line is read anew at each such call, and N counted since it last changed. A call that was made to fail leaves a
 * file HEALCTL_FAULT.hit.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/types.h>
#include <unistd.h>

static int fails(int fd)
{
    static char last[512];
    static long count;
    char line[512] = "", part[256] = "", link[64], path[512];
    const char *control = getenv("HEALCTL_FAULT");
    int number;
    long n;
    FILE *file = control ? fopen(control, "re") : NULL;
    if (!file)
        return 0;
    char *got = fgets(line, sizeof line, file);
    fclose(file);
    if (!got || sscanf(line, "%d %ld %255s", &number, &n, part) != 3 || n == 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    if (!strstr(path, part))
        return 0;
    if (strcmp(line, last)) {
        strcpy(last, line);
        count = 0;
    }
    if (++count < n)
        return 0;
    snprintf(path, sizeof path, "%s.hit", control);
    file = fopen(path, "we");
    if (file)
        fclose(file);
    errno = number;
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t size) { return fails(fd) ? -1 : NEXT(write)(fd, data, size); }

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    return fails(fd) ? -1 : NEXT(pwrite)(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    return fails(fd) ? -1 : NEXT(pwrite64)(fd, data, size, at);
}

int fsync(int fd) { return fails(fd) ? -1 : NEXT(fsync)(fd); }

int fdatasync(int fd) { return fails(fd) ? -1 : NEXT(fdatasync)(fd); }

int ftruncate(int fd, off_t size) { return fails(fd) ? -1 : NEXT(ftruncate)(fd, size); }

int ftruncate64(int fd, off64_t size) { return fails(fd) ? -1 : NEXT(ftruncate64)(fd, size); }

ssize_t sendfile(int to, int from, off_t *at, size_t size) { return fails(to) ? -1 : NEXT(sendfile)(to, from, at, size); }

ssize_t sendfile64(int to, int from, off64_t *at, size_t size)
{
    return fails(to) ? -1 : NEXT(sendfile64)(to, from, at, size);
}
