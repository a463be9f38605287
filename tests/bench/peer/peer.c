/* The least that a libfuse low-level program can be: one directory with one file of 1 MiB, read through the daemon.
 *
 * It is what the benchmark compares jobfs with, so it answers as jobfs does for a live stream: attributes and names
 * are not cached (timeout 0), reads go past the page cache (direct_io), and one thread serves all.
 *
 * usage: fuse-peer [-f] DIR; the file is DIR/data. It ends when DIR is unmounted. */
#define FUSE_USE_VERSION 35

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DATA_INO = 2, DATA_SIZE = 1 << 20 };

static const char data_name[] = "data";
static char data[DATA_SIZE];

static int attributes(fuse_ino_t ino, struct stat *st)
{
	memset(st, 0, sizeof *st);
	st->st_ino = ino;
	st->st_uid = getuid();
	st->st_gid = getgid();
	switch (ino) {
	case FUSE_ROOT_ID:
		st->st_mode = S_IFDIR | 0500;
		st->st_nlink = 2;
		return 0;
	case DATA_INO:
		st->st_mode = S_IFREG | 0400;
		st->st_nlink = 1;
		st->st_size = DATA_SIZE;
		return 0;
	default:
		return ENOENT;
	}
}

static void peer_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = {.ino = DATA_INO};

	if (parent != FUSE_ROOT_ID || strcmp(name, data_name) != 0) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	attributes(DATA_INO, &entry.attr);
	fuse_reply_entry(req, &entry);
}

static void peer_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;
	int error = attributes(ino, &st);

	(void)fi;
	if (error)
		fuse_reply_err(req, error);
	else
		fuse_reply_attr(req, &st, 0);
}

static void peer_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (ino != DATA_INO) {
		fuse_reply_err(req, EISDIR);
	} else if ((fi->flags & O_ACCMODE) != O_RDONLY) {
		fuse_reply_err(req, EACCES);
	} else {
		fi->direct_io = 1;
		fuse_reply_open(req, fi);
	}
}

static void peer_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	size_t left = offset < DATA_SIZE ? (size_t)(DATA_SIZE - offset) : 0;

	(void)ino, (void)fi;
	fuse_reply_buf(req, data + (DATA_SIZE - left), size < left ? size : left);
}

static void peer_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	static const struct {
		const char *name;
		fuse_ino_t ino;
	} entries[] = {{".", FUSE_ROOT_ID}, {"..", FUSE_ROOT_ID}, {data_name, DATA_INO}};
	char listing[256];
	size_t used = 0;

	(void)fi;
	if (ino != FUSE_ROOT_ID) {
		fuse_reply_err(req, ENOTDIR);
		return;
	}
	if (size > sizeof listing)
		size = sizeof listing;
	for (size_t i = (size_t)offset; i < sizeof entries / sizeof *entries; i++) {
		struct stat st;
		size_t needed;

		attributes(entries[i].ino, &st);
		needed = fuse_add_direntry(req, listing + used, size - used, entries[i].name, &st, (off_t)i + 1);
		if (needed > size - used)
			break;
		used += needed;
	}
	fuse_reply_buf(req, listing, used);
}

static const struct fuse_lowlevel_ops operations = {
	.lookup = peer_lookup,
	.getattr = peer_getattr,
	.open = peer_open,
	.read = peer_read,
	.readdir = peer_readdir,
};

static int serve(struct fuse_args *args, const struct fuse_cmdline_opts *options)
{
	struct fuse_session *session = fuse_session_new(args, &operations, sizeof operations, NULL);
	int failed = 1;

	if (!session)
		return 1;
	if (fuse_set_signal_handlers(session) == 0) {
		if (fuse_session_mount(session, options->mountpoint) == 0) {
			fuse_daemonize(options->foreground);
			failed = fuse_session_loop(session) < 0;
			fuse_session_unmount(session);
		}
		fuse_remove_signal_handlers(session);
	}
	fuse_session_destroy(session);
	return failed;
}

int main(int argc, char *argv[])
{
	struct fuse_args args = FUSE_ARGS_INIT(argc, argv);
	struct fuse_cmdline_opts options;
	int failed = 1;

	if (fuse_parse_cmdline(&args, &options) != 0)
		return 2;
	memset(data, 'x', sizeof data);
	if (options.mountpoint)
		failed = serve(&args, &options);
	else
		fprintf(stderr, "usage: %s [-f] DIR\n", argv[0]);
	free(options.mountpoint);
	fuse_opt_free_args(&args);
	return failed;
}
