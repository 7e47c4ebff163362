#include "util/lock.h"
#include "util/error.h"
#include "util/file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static void die_held(const char *folder, int fd) {
    char holder[320] = "";
    if (pread(fd, holder, sizeof holder - 1, 0) <= 0) { strcpy(holder, "another process"); }
    die("%s: %s writes here now: wait until it ends, or give another folder", folder, holder);
}

// The holder removes the file at its end: then a lock that was taken afterwards is one on a removed file.
static bool is_there(int fd, const char *path) {
    struct stat locked, there;
    return fstat(fd, &locked) == 0 && stat(path, &there) == 0 && locked.st_ino == there.st_ino &&
           locked.st_dev == there.st_dev;
}

bool folder_lock(const char *folder) {
    Path path = path_of("%s/.lock", folder);
    char host[256] = "";
    int fd;
    for (;; close(fd)) {
        fd = open(path.text, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (fd < 0) { die("%s: cannot be opened: %s", path.text, strerror(errno)); }
        if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
            if (errno == EWOULDBLOCK) { die_held(folder, fd); }
            struct stat s;
            if (fstat(fd, &s) == 0 && s.st_size == 0) { unlink(path.text); } // it is ours
            close(fd);
            return false;
        }
        if (is_there(fd, path.text)) { break; }
    }
    cleanup_add(path.text);
    gethostname(host, sizeof host - 1);
    if (ftruncate(fd, 0) != 0 || dprintf(fd, "process %ld on %s", (long)getpid(), host) < 0) {
        warn("%s: cannot be written: %s", path.text, strerror(errno));
    }
    return true; // fd stays open: the lock is held as long as it is
}
