/*
 * The reader: mounts what it is told to, lists and reads files of it.
 *
 * A request is a frame: its length (u32) and its bytes, the first of which
 * says what is wanted.  An answer is one frame or several: length (u32),
 * status (u8), bytes.  All numbers are little-endian, texts end with a zero.
 *
 *   'P'                                  ping
 *   'D' disks (u8)                       look for so many disks; answer as 'B'
 *   'V'                                  start all volume groups; answer as 'B'
 *   'B'                                  block devices: "name size label\n"
 *   'M' type, device, options, target    mount, read-only
 *   'L' file, target, type               mount a file
 *   'W' directory                        all regular files below it:
 *                                        size (u64), mode (u32), name; at the
 *                                        end how many could not be read (u32)
 *   'N' directory                        the names in it
 *   'S' file                             how many bytes it has (u64)
 *   'R' { offset (u64), size (u32), file } ...
 *                                        bytes of files, an answer for each
 *
 * It trusts neither the disks nor the host's requests further than that they
 * can only hurt the machine that it runs in.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FRAME_MAX   (1 << 20)
#define WALK_FRAME  (64 << 10)
#define NAME_MAX_   4096
#define SMALL       (16 << 10)
#define WAIT_MS     5
#define DISKS_MS    3000

enum { DONE, MORE, FAILED };

static int port;
static unsigned char request[FRAME_MAX + 1];
static unsigned char answer[FRAME_MAX + 5];

static void pause_ms(long ms)
{
    struct timespec time = { ms / 1000, ms % 1000 * 1000000 };

    nanosleep(&time, NULL);
}

/*
 * Wait until the port can be read or written.  The port never blocks by
 * itself: its driver would spin until the host has taken what was written.
 */
static void await(short events)
{
    struct pollfd wanted = { port, events, 0 };

    if (errno != EINTR && errno != EAGAIN) {
        exit(1);
    }
    poll(&wanted, 1, -1);
    if (wanted.revents & POLLHUP) {
        /* nobody is connected */
        pause_ms(WAIT_MS);
    }
}

static void get(void *to, size_t size)
{
    char *place = to;

    while (size) {
        ssize_t got = read(port, place, size);

        if (got > 0) {
            place += got;
            size -= got;
        } else {
            errno = got ? errno : EAGAIN;
            await(POLLIN);
        }
    }
}

static void put(const void *from, size_t size)
{
    const char *place = from;

    while (size) {
        ssize_t done = write(port, place, size);

        if (done > 0) {
            place += done;
            size -= done;
        } else {
            errno = done ? errno : EAGAIN;
            await(POLLOUT);
        }
    }
}

/* What is to be sent lies in answer + 5 already. */
static void send_answer(int status, uint32_t size)
{
    memcpy(answer, &size, 4);
    answer[4] = status;
    put(answer, size + 5);
}

static void fail(const char *what)
{
    int error = errno;
    int size = snprintf((char *)answer + 5, 512, "%s: %s", what,
                        strerror(error));

    send_answer(FAILED, size < 512 ? size : 511);
}

/* The next text of a request, "" behind its end. */
static const char *text(const unsigned char **place, const unsigned char *end)
{
    const char *found = (const char *)*place;

    if (*place >= end) {
        return "";
    }
    /* there is a zero behind every request */
    *place += strlen(found) + 1;
    return found;
}

static void read_line(const char *format, const char *name, char *to, int size)
{
    char path[512];
    FILE *file;

    to[0] = 0;
    snprintf(path, sizeof(path), format, name);
    file = fopen(path, "re");
    if (file) {
        if (fgets(to, size, file)) {
            to[strcspn(to, "\n")] = 0;
        }
        fclose(file);
    }
}

/* Of logical volumes only those that people made are listed, by their names. */
static int is_hidden(const char *name, char *label, int size)
{
    char uuid[160];

    label[0] = 0;
    if (strncmp(name, "dm-", 3)) {
        return !strncmp(name, "loop", 4) || !strncmp(name, "ram", 3);
    }
    read_line("/sys/class/block/%s/dm/uuid", name, uuid, sizeof(uuid));
    read_line("/sys/class/block/%s/dm/name", name, label, size);
    return strncmp(uuid, "LVM-", 4) || strlen(uuid) != 4 + 64;
}

static void send_devices(void)
{
    DIR *directory = opendir("/sys/class/block");
    struct dirent *entry;
    uint32_t used = 0;

    while (directory && (entry = readdir(directory))) {
        char label[300], sectors[32];

        if (entry->d_name[0] == '.' ||
            is_hidden(entry->d_name, label, sizeof(label)) ||
            used + 700 > WALK_FRAME) {
            continue;
        }
        read_line("/sys/class/block/%s/size", entry->d_name, sectors,
                  sizeof(sectors));
        used += snprintf((char *)answer + 5 + used, 700, "%s %llu %s\n",
                         entry->d_name, strtoull(sectors, NULL, 10) * 512,
                         label);
    }
    if (directory) {
        closedir(directory);
    }
    send_answer(DONE, used);
}

static int count_disks(void)
{
    DIR *directory = opendir("/sys/block");
    struct dirent *entry;
    int found = 0;

    while (directory && (entry = readdir(directory))) {
        found += !strncmp(entry->d_name, "vd", 2);
    }
    if (directory) {
        closedir(directory);
    }
    return found;
}

static void find_disks(int wanted)
{
    int rescan = open("/sys/bus/pci/rescan", O_WRONLY | O_CLOEXEC);

    if (rescan < 0 || write(rescan, "1", 1) != 1) {
        fail("PCI can't be looked at again");
    } else {
        for (int ms = 0; count_disks() < wanted && ms < DISKS_MS; ms++) {
            pause_ms(1);
        }
        send_devices();
    }
    if (rescan >= 0) {
        close(rescan);
    }
}

static void start_groups(void)
{
    pid_t child = fork();
    int status = 0;

    if (child == 0) {
        int log = open("/dev/console", O_WRONLY);

        dup2(log, 1);
        dup2(log, 2);
        execl("/usr/sbin/lvm", "lvm", "vgchange", "--activate", "y",
              "--ignoremonitoring", "--noudevsync", NULL);
        _exit(127);
    }
    /* some may have been started, whatever it says */
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    send_devices();
}

static int mount_one(const char *type, const char *device,
                     const char *options, const char *target)
{
    unsigned long flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;

    mkdir(target, 0700);
    return mount(device, target, type, flags, *options ? options : NULL);
}

static void mount_device(const unsigned char *place, const unsigned char *end)
{
    const char *type = text(&place, end);
    const char *device = text(&place, end);
    const char *options = text(&place, end);
    const char *target = text(&place, end);

    if (mount_one(type, device, options, target)) {
        fail("it can't be mounted");
    } else {
        send_answer(DONE, 0);
    }
}

static int attach_loop(const char *file, char *device, int size)
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
    int backing = open(file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int loop, result = -1;

    snprintf(device, size, "/dev/loop%d", number);
    loop = number < 0 ? -1 : open(device, O_RDONLY | O_CLOEXEC);
    if (backing >= 0 && loop >= 0) {
        result = ioctl(loop, LOOP_SET_FD, backing);
    }
    if (control >= 0) {
        close(control);
    }
    if (backing >= 0) {
        close(backing);
    }
    /* the device stays as long as something holds it, which the mount does */
    return result ? -1 : loop;
}

static void mount_file(const unsigned char *place, const unsigned char *end)
{
    const char *file = text(&place, end);
    const char *target = text(&place, end);
    const char *type = text(&place, end);
    char device[32];
    int loop = attach_loop(file, device, sizeof(device));

    if (loop < 0 || mount_one(type, device, "", target)) {
        fail("the file can't be mounted");
    } else {
        send_answer(DONE, 0);
    }
}

/* Directories that wait to be read: names, one behind the other. */
struct waiting {
    char *names;
    size_t used, size;
};

static void add_directory(struct waiting *waiting, const char *name)
{
    size_t length = strlen(name) + 1;

    if (waiting->used + length > waiting->size) {
        waiting->size = 2 * waiting->size + length;
        waiting->names = realloc(waiting->names, waiting->size);
        if (!waiting->names) {
            exit(1);
        }
    }
    memcpy(waiting->names + waiting->used, name, length);
    waiting->used += length;
}

static void take_directory(struct waiting *waiting, char *name)
{
    size_t start = waiting->used - 1;

    while (start && waiting->names[start - 1]) {
        start--;
    }
    strcpy(name, waiting->names + start);
    waiting->used = start;
}

/* An entry behind those that wait in the answer; how much there is then. */
static uint32_t add_file(uint32_t used, const struct stat *info,
                         const char *name)
{
    unsigned char *to = answer + 5 + used;
    uint64_t size = info->st_size;
    uint32_t mode = info->st_mode;
    size_t length = strlen(name) + 1;

    memcpy(to, &size, 8);
    memcpy(to + 8, &mode, 4);
    memcpy(to + 12, name, length);
    used += 12 + length;
    if (used < WALK_FRAME) {
        return used;
    }
    send_answer(MORE, used);
    return 0;
}

static void walk(const unsigned char *place, const unsigned char *end)
{
    const char *root = text(&place, end);
    size_t skip = strlen(root);
    struct waiting waiting = { 0 };
    char name[NAME_MAX_], below[NAME_MAX_ + 260];
    uint32_t used = 0, damaged = 0;

    add_directory(&waiting, root);
    while (waiting.used) {
        DIR *directory;
        struct dirent *entry;

        take_directory(&waiting, name);
        directory = opendir(name);
        if (!directory) {
            damaged++;
            continue;
        }
        for (errno = 0; (entry = readdir(directory)); errno = 0) {
            struct stat info;
            int length;

            if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) {
                continue;
            }
            length = snprintf(below, sizeof(below), "%s/%s", name,
                              entry->d_name);
            if (length >= NAME_MAX_ ||
                fstatat(dirfd(directory), entry->d_name, &info,
                        AT_SYMLINK_NOFOLLOW)) {
                damaged++;
            } else if (S_ISREG(info.st_mode)) {
                used = add_file(used, &info, below + skip);
            } else if (S_ISDIR(info.st_mode) &&
                       strcmp(entry->d_name, ".snapshots")) {
                add_directory(&waiting, below);
            }
        }
        damaged += errno != 0;
        closedir(directory);
    }
    free(waiting.names);
    if (used) {
        send_answer(MORE, used);
    }
    memcpy(answer + 5, &damaged, 4);
    send_answer(DONE, 4);
}

static void send_names(const unsigned char *place, const unsigned char *end)
{
    DIR *directory = opendir(text(&place, end));
    struct dirent *entry;
    uint32_t used = 0;

    if (!directory) {
        fail("a directory can't be read");
        return;
    }
    while ((entry = readdir(directory)) && used + 256 < WALK_FRAME) {
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) {
            strcpy((char *)answer + 5 + used, entry->d_name);
            used += strlen(entry->d_name) + 1;
        }
    }
    closedir(directory);
    send_answer(DONE, used);
}

static void send_size(const unsigned char *place, const unsigned char *end)
{
    struct stat info;
    uint64_t size;

    if (lstat(text(&place, end), &info)) {
        fail("there is no such file");
    } else if (!S_ISREG(info.st_mode)) {
        errno = EINVAL;
        fail("it is no file");
    } else {
        size = info.st_size;
        memcpy(answer + 5, &size, 8);
        send_answer(DONE, 8);
    }
}

static void read_one(uint64_t offset, uint32_t size, const char *name)
{
    /* files are read a piece at a time, so the last one stays open */
    static char open_name[NAME_MAX_];
    static int file = -1;
    uint32_t done = 0;

    if (file < 0 || strcmp(name, open_name)) {
        if (file >= 0) {
            close(file);
        }
        file = open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (file < 0) {
            fail("a file can't be opened");
            return;
        }
        snprintf(open_name, sizeof(open_name), "%s", name);
        /* of most files only the start is wanted, and nothing behind it */
        posix_fadvise(file, 0, 0, size <= SMALL ? POSIX_FADV_RANDOM
                                                : POSIX_FADV_SEQUENTIAL);
    }
    while (done < size && size <= FRAME_MAX) {
        ssize_t got = pread(file, answer + 5 + done, size - done,
                            offset + done);

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0 && !done) {
            fail("a file can't be read");
            return;
        }
        if (got <= 0) {
            break;
        }
        done += got;
    }
    send_answer(DONE, done);
}

static void read_all(const unsigned char *place, const unsigned char *end)
{
    while (place + 12 < end) {
        uint64_t offset;
        uint32_t size;

        memcpy(&offset, place, 8);
        memcpy(&size, place + 8, 4);
        place += 12;
        read_one(offset, size, text(&place, end));
    }
}

static void serve(const unsigned char *place, const unsigned char *end)
{
    switch (*place++) {
    case 'P':
        send_answer(DONE, 0);
        break;
    case 'D':
        find_disks(*place);
        break;
    case 'V':
        start_groups();
        break;
    case 'B':
        send_devices();
        break;
    case 'M':
        mount_device(place, end);
        break;
    case 'L':
        mount_file(place, end);
        break;
    case 'W':
        walk(place, end);
        break;
    case 'N':
        send_names(place, end);
        break;
    case 'S':
        send_size(place, end);
        break;
    case 'R':
        read_all(place, end);
        break;
    default:
        errno = ENOSYS;
        fail("the request is not known");
    }
}

int main(int argc, char **argv)
{
    port = argc > 1 ? open(argv[1], O_RDWR | O_CLOEXEC | O_NONBLOCK) : -1;
    if (port < 0) {
        perror("the port can't be opened");
        return 1;
    }
    for (;;) {
        uint32_t size;

        get(&size, sizeof(size));
        if (!size || size > FRAME_MAX) {
            return 1;
        }
        get(request, size);
        request[size] = 0;
        serve(request, request + size);
    }
}
