// The names and numbers of fields are those of the HDF5 File Format Specification, version 3.
#include "data/h5_check.h"
#include "util/error.h"
#include "util/map_guard.h"
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    const char *path;
    const uint8_t *bytes;
    uint64_t size, *work; // work: messages and objects that were looked at
} File;

// Bytes that are read from front to back.
typedef struct {
    const File *file;
    const uint8_t *at, *end;
    const char *what; // "a datatype"
    uint64_t padding; // at most so many unused bytes may follow
} Part;

static const uint64_t NONE = UINT64_MAX; // an address that is not set, a size without limit

static void refuse(const File *f, const char *what) __attribute__((noreturn));
static void refuse(const File *f, const char *what) {
    die("%s: is not an intact HDF5 file, expected a shard of `cocogold encode` (%s is damaged or from another program)",
        f->path, what);
}

static void want(const Part *p, bool right) {
    if (!right) { refuse(p->file, p->what); }
}

static uint64_t left(const Part *p) { return (uint64_t)(p->end - p->at); }

// Parts may lie in each other or be named many times: the work stays in proportion to the file.
static void count_work(const Part *p) { want(p, ++*p->file->work <= 16 * p->file->size); }

static Part cut(Part *p, uint64_t bytes, const char *what) {
    want(p, bytes <= left(p));
    p->at += bytes;
    return (Part){p->file, p->at - bytes, p->at, what};
}

static uint64_t take(Part *p, int bytes) {
    Part number = cut(p, (uint64_t)bytes, p->what);
    uint64_t value = 0;
    for (int i = bytes; i-- > 0;) { value = value << 8 | number.at[i]; }
    return value;
}

static void want_number(Part *p, int bytes, uint64_t value) { want(p, take(p, bytes) == value); }
static void want_end(const Part *p) { want(p, left(p) <= p->padding); }

static bool inside(const File *f, uint64_t at, uint64_t bytes) { return at <= f->size && bytes <= f->size - at; }

// A block of the file that begins with a signature and a version.
static Part block_at(const File *f, uint64_t at, uint64_t bytes, const char *signature, int version, const char *what) {
    if (!inside(f, at, bytes) || bytes < 5) { refuse(f, what); }
    Part p = {f, f->bytes + at, f->bytes + at + bytes, what};
    want(&p, memcmp(p.at, signature, 4) == 0);
    p.at += 4;
    want_number(&p, 1, (uint64_t)version);
    return p;
}

// ---- Datatypes and dataspaces --------------------------------------------------------------------------------------

typedef struct {
    uint64_t size; // bytes of a value
    bool variable; // texts of variable length
} Type;

static Type check_type(Part p, bool base) {
    static const struct {
        uint64_t size, bits, exponent, exponent_bits, bias;
    } floats[] = {{2, 16, 10, 5, 15}, {4, 32, 23, 8, 127}, {8, 64, 52, 11, 1023}};
    uint64_t kind = take(&p, 1), flags = take(&p, 3), size = take(&p, 4), k = 0;
    want(&p, kind >> 4 >= 1 && kind >> 4 <= 3 && size > 0 && size <= 1 << 24);
    switch (kind & 15) {
    case 0: // integer
        want(&p, (flags & ~9u) == 0 && (size == 1 || size == 2 || size == 4 || size == 8));
        want_number(&p, 2, 0);
        want_number(&p, 2, 8 * size);
        break;
    case 1:
        while (k < 2 && floats[k].size != size) { k++; }
        want(&p, floats[k].size == size && (flags & 0xff) >> 1 == 0x10 && flags >> 8 == floats[k].bits - 1);
        want_number(&p, 2, 0);
        want_number(&p, 2, floats[k].bits);
        want_number(&p, 1, floats[k].exponent);
        want_number(&p, 1, floats[k].exponent_bits);
        want_number(&p, 1, 0);
        want_number(&p, 1, floats[k].exponent);
        want_number(&p, 4, floats[k].bias);
        break;
    case 3: // text
        want(&p, (flags & 15) <= 2 && flags >> 4 <= 1);
        break;
    case 9: // text of variable length; the base is a character
        want(&p, !base && size == 16 && (flags & 15) == 1 && (flags >> 4 & 15) <= 2 && flags >> 8 <= 1);
        want(&p, check_type(p, true).size == 1);
        return (Type){16, true};
    default:
        want(&p, false);
    }
    want_end(&p);
    return (Type){size, false};
}

typedef struct {
    int rank;
    uint64_t dims[32], most[32], values;
} Space;

static Space check_space(Part p) {
    Space s = {.values = 1};
    uint64_t version = take(&p, 1);
    s.rank = (int)take(&p, 1);
    uint64_t limits = take(&p, 1), kind = take(&p, 1); // scalar, simple, null
    if (version == 1) {
        kind = s.rank > 0;
        take(&p, 4);
    }
    want(&p, (version == 1 || version == 2) && s.rank <= 32 && limits <= 1 && kind <= 2 && (kind == 1) == (s.rank > 0));
    for (int i = 0; i < s.rank; i++) {
        s.dims[i] = s.most[i] = take(&p, 8);
        want(&p, s.dims[i] < 1ull << 48 && (s.dims[i] == 0 || s.values <= (1ull << 48) / s.dims[i]));
        s.values *= s.dims[i];
    }
    for (int i = 0; i < s.rank && limits; i++) {
        s.most[i] = take(&p, 8);
        want(&p, s.most[i] >= s.dims[i]);
    }
    if (kind == 2) { s.values = 0; }
    want_end(&p);
    return s;
}

static uint64_t bytes_of(const Part *p, const Space *s, Type t, uint64_t most) {
    want(p, s->values <= most / t.size);
    return s->values * t.size;
}

// The objects of a global heap.
static Part objects_at(const File *f, uint64_t heap) {
    Part head = block_at(f, heap, 16, "GCOL", 1, "a global heap");
    want_number(&head, 3, 0);
    uint64_t size = take(&head, 8);
    want(&head, size >= 4096 && inside(f, heap, size));
    return (Part){f, head.at, f->bytes + heap + size, head.what};
}

// Goes on to the object of this number; false: there is none of this length.
static bool find_object(Part *objects, uint64_t number, uint64_t length) {
    while (left(objects) >= 16) {
        count_work(objects);
        uint64_t index = take(objects, 2);
        take(objects, 6);
        uint64_t bytes = take(objects, 8);
        if (index == 0) { // free, to the end
            want(objects, bytes == left(objects) + 16);
            return false;
        }
        cut(objects, bytes, objects->what);
        cut(objects, (8 - bytes % 8) % 8, objects->what);
        if (index == number) { return bytes == length; }
    }
    return false;
}

// Texts of variable length are objects of global heaps, mostly one behind the other.
static void check_variable(Part p, uint64_t count) {
    uint64_t last = NONE;
    for (Part objects = p; count; count--) {
        uint64_t length = take(&p, 4), heap = take(&p, 8), number = take(&p, 4);
        if (!length && (!heap || heap == NONE)) { continue; }
        want(&p, length < 1 << 24 && number > 0);
        if (heap == last && find_object(&objects, number, length)) { continue; }
        last = heap;
        objects = objects_at(p.file, heap);
        want(&objects, find_object(&objects, number, length));
    }
}

// ---- Messages ------------------------------------------------------------------------------------------------------

// Version 1 fills its parts up to 8 bytes.
static Part cut_padded(Part *p, uint64_t bytes, bool padded, const char *what) {
    Part part = cut(p, bytes, what);
    if (padded) { cut(p, (8 - bytes % 8) % 8, what); }
    return part;
}

static void check_attribute(Part p) {
    uint64_t version = take(&p, 1), shared = take(&p, 1), name = take(&p, 2), type = take(&p, 2), space = take(&p, 2);
    want(&p, version >= 1 && version <= 3 && shared == 0);
    if (version == 3) { want(&p, take(&p, 1) <= 1); } // the name's character set
    Part text = cut_padded(&p, name, version == 1, p.what);
    want(&p, name > 0 && memchr(text.at, 0, name) == text.end - 1);
    Type t = check_type(cut_padded(&p, type, version == 1, "the type of an attribute"), false);
    Space s = check_space(cut_padded(&p, space, version == 1, "the shape of an attribute"));
    Part values = cut(&p, bytes_of(&p, &s, t, 1 << 30), p.what);
    want_end(&p);
    if (t.variable) { check_variable(values, s.values); }
}

static void check_dataset(const File *f, uint64_t at, const char *name, int length);

// Only hard links are followed.
static void check_link(Part p) {
    want_number(&p, 1, 1);
    uint64_t flags = take(&p, 1), kind = flags & 8 ? take(&p, 1) : 0;
    want(&p, (flags & ~0x1fu) == 0);
    if (flags & 4) { take(&p, 8); }
    if (flags & 16) { want(&p, take(&p, 1) <= 1); }
    uint64_t length = take(&p, 1 << (flags & 3));
    Part name = cut(&p, length, p.what);
    want(&p, length > 0 && length < 256 && !memchr(name.at, 0, length));
    if (kind) {
        die("%s: dataset \"%.*s\" is a link, expected a dataset of this file", p.file->path, (int)length,
            (const char *)name.at);
    }
    uint64_t at = take(&p, 8);
    want_end(&p);
    check_dataset(p.file, at, (const char *)name.at, (int)length);
}

// ---- Fractal heaps, as libhdf5 makes them for links (rows of 512 bytes) and attributes (1024) ----------------------

// The records of a B-tree of one node.
static Part records_at(const File *f, uint64_t at, int kind, int bytes, uint64_t *count) {
    Part p = block_at(f, at, 38, "BTHD", 0, "a B-tree");
    want_number(&p, 1, (uint64_t)kind);
    want_number(&p, 4, 512);
    want_number(&p, 2, (uint64_t)bytes);
    want_number(&p, 2, 0); // depth
    want_number(&p, 1, 100);
    want_number(&p, 1, 40);
    uint64_t root = take(&p, 8);
    *count = take(&p, 2);
    want_number(&p, 8, *count);
    want(&p, 10 + *count * (uint64_t)bytes <= 512);
    if (!*count) { return (Part){f, p.at, p.at, p.what}; }
    Part leaf = block_at(f, root, 512, "BTLF", 0, "a B-tree's node");
    want_number(&leaf, 1, (uint64_t)kind);
    return leaf;
}

typedef struct {
    uint64_t at, start, root, rows, big; // big: B-tree of the objects that do not fit in
    int offset_bytes, most_rows;
} Heap;

static Heap heap_at(const File *f, uint64_t at, bool links) {
    Part p = block_at(f, at, 146, "FRHP", 0, "a fractal heap");
    Heap h = {.at = at, .start = links ? 512 : 1024, .offset_bytes = links ? 4 : 5, .most_rows = links ? 9 : 8};
    want_number(&p, 2, links ? 7 : 8); // bytes of an id
    want_number(&p, 2, 0);             // filters
    want_number(&p, 1, 2);             // blocks have checksums
    want_number(&p, 4, 4096);          // managed objects
    take(&p, 8);
    h.big = take(&p, 8);
    cut(&p, 7 * 8, p.what); // free space, managed objects, bytes of the big ones
    uint64_t big = take(&p, 8), count = 0;
    want_number(&p, 8, 0); // small objects: bytes and number
    want_number(&p, 8, 0);
    want_number(&p, 2, 4);
    want_number(&p, 8, h.start);
    want_number(&p, 8, 65536);
    want_number(&p, 2, (uint64_t)(8 * h.offset_bytes));
    want_number(&p, 2, 1);
    h.root = take(&p, 8);
    h.rows = take(&p, 2);
    want(&p, h.rows <= (uint64_t)h.most_rows);
    if (h.big != NONE) { records_at(f, h.big, 1, 24, &count); }
    want(&p, count == big && (h.big == NONE || big)); // an empty B-tree would be deleted when the heap is closed
    return h;
}

static Part big_object(const File *f, const Heap *h, uint64_t number) {
    uint64_t count;
    Part records = records_at(f, h->big, 1, 24, &count), found = records;
    bool there = false;
    for (; count; count--) {
        uint64_t at = take(&records, 8), bytes = take(&records, 8), id = take(&records, 8);
        want(&records, bytes > 0 && inside(f, at, bytes));
        if (id != number) { continue; }
        found = (Part){f, f->bytes + at, f->bytes + at + bytes, "an attribute"};
        there = true;
    }
    want(&records, there);
    return found;
}

static Part heap_object(const File *f, const Heap *h, Part id, const char *what) {
    uint64_t kind = take(&id, 1), block = 0, size = h->start, child = h->root;
    if (kind == 0x10) { return big_object(f, h, take(&id, (int)left(&id))); }
    uint64_t offset = take(&id, h->offset_bytes), length = take(&id, (int)left(&id));
    want(&id, kind == 0 && length > 0 && length <= 4096);
    if (h->rows) {
        uint64_t entry = 0;
        while (block + size <= offset && entry < 4 * h->rows) { // rows 2, 3, ... have twice the size of the one before
            block += size;
            entry++;
            if (entry >= 8 && entry % 4 == 0) { size *= 2; }
        }
        want(&id, entry < 4 * h->rows);
        Part p = block_at(f, h->root, 13 + (uint64_t)h->offset_bytes + 32 * h->rows + 4, "FHIB", 0, "a heap's index");
        want_number(&p, 8, h->at);
        want_number(&p, h->offset_bytes, 0);
        cut(&p, 8 * entry, p.what);
        child = take(&p, 8);
    }
    Part p = block_at(f, child, size, "FHDB", 0, "a heap's block");
    want_number(&p, 8, h->at);
    want_number(&p, h->offset_bytes, block);
    take(&p, 4);
    want(&id, offset >= block + (size - left(&p)));
    cut(&p, offset - block - (size - left(&p)), what);
    return cut(&p, length, what);
}

// Links (B-tree of kind 5) or attributes (8) of an object; they have no addresses if there are few.
static void check_dense(const File *f, Part p, bool links) {
    want_number(&p, 1, 0);
    want_number(&p, 1, 0); // without the order of their creation
    uint64_t heap = take(&p, 8), tree = take(&p, 8), count;
    want_end(&p);
    want(&p, (heap == NONE) == (tree == NONE));
    if (heap == NONE) { return; }
    Heap h = heap_at(f, heap, links);
    Part records = records_at(f, tree, links ? 5 : 8, links ? 11 : 17, &count);
    for (; count; count--) {
        if (links) { take(&records, 4); }
        Part id = cut(&records, links ? 7 : 8, records.what);
        if (!links) {
            want_number(&records, 1, 0);
            take(&records, 8);
        }
        Part object = heap_object(f, &h, id, links ? "a link" : "an attribute");
        links ? check_link(object) : check_attribute(object);
    }
}

// ---- Object headers ------------------------------------------------------------------------------------------------

// How a group would store more links: their numbers for the two forms, and estimates (h5repack writes them).
static void check_group(Part p) {
    want_number(&p, 1, 0);
    uint64_t flags = take(&p, 1);
    want(&p, flags <= 3);
    cut(&p, 4 * (flags & 1) + 4 * (flags >> 1), p.what);
    want_end(&p);
}

enum { SPACE = 1, LINKS = 2, TYPE = 3, FILL = 5, LINK = 6, FILES = 7, LAYOUT = 8, GROUP = 10, FILTERS = 11 };
enum { ATTRIBUTE = 12, CONTINUES = 16, TIME = 18, ATTRIBUTES = 21, COUNT = 22, KINDS };

typedef struct {
    Part messages[KINDS];
    int counts[KINDS], count, blocks; // blocks: continuations that were followed
    bool root;
} Object;

// old: version 1 of object headers, without signatures and checksums; h5py writes new datasets so.
static void check_messages(const File *f, Part p, bool old, uint64_t flags, Object *o) {
    static const uint32_t in_root = 1 << LINKS | 1 << LINK | 1 << GROUP;
    static const uint32_t in_data = 1 << SPACE | 1 << TYPE | 1 << FILL | 1 << FILES | 1 << LAYOUT | 1 << FILTERS;
    static const uint32_t in_both = 1 | 1 << ATTRIBUTE | 1 << CONTINUES | 1 << TIME | 1 << ATTRIBUTES | 1 << COUNT;
    const uint64_t head = old ? 8 : flags & 4 ? 6 : 4;
    while (left(&p) >= head) {
        count_work(&p);
        uint64_t kind = take(&p, old ? 2 : 1), size = take(&p, 2), how = take(&p, 1);
        cut(&p, head - (old ? 5 : 4), p.what);
        Part m = cut(&p, size, "an object's message");
        if (old) { m.padding = 7; }
        o->count++;
        if (!kind) { continue; }
        want(&m, kind < KINDS && (how & ~5u) == 0 && ((o->root ? in_root : in_data) | in_both) >> kind & 1);
        o->messages[kind] = m;
        o->counts[kind]++;
        if (kind == ATTRIBUTE) { check_attribute(m); }
        if (kind == LINK) { check_link(m); }
        if (kind == LINKS || kind == ATTRIBUTES) { check_dense(f, m, kind == LINKS); }
        if (kind == GROUP) { check_group(m); }
        if (kind == TIME) { want(&m, size == 8 && m.at[0] == 1); }
        if (kind == COUNT) { want(&m, size == 5 && !m.at[0]); }
        if (kind != CONTINUES) { continue; }
        uint64_t at = take(&m, 8), bytes = take(&m, 8);
        want(&m, ++o->blocks < 1000 && bytes >= 8 && inside(f, at, bytes));
        Part more = {f, f->bytes + at, f->bytes + at + bytes, p.what};
        if (!old) {
            want(&m, memcmp(more.at, "OCHK", 4) == 0);
            more.at += 4;
            more.end -= 4; // its checksum
        }
        check_messages(f, more, old, flags, o);
    }
}

static Object object_at(const File *f, uint64_t at, bool root) {
    Object o = {.root = root};
    static const char what[] = "an object";
    if (!inside(f, at, 64)) { refuse(f, what); }
    Part p = {f, f->bytes + at, f->bytes + f->size, what};
    bool old = *p.at == 1 && !root;
    if (old) {
        want_number(&p, 2, 1);
        int count = (int)take(&p, 2);
        take(&p, 4);
        uint64_t length = take(&p, 4);
        take(&p, 4);
        check_messages(f, cut(&p, length, what), true, 0, &o);
        want(&p, o.count == count);
    } else {
        p = block_at(f, at, f->size - at, "OHDR", 2, what);
        uint64_t flags = take(&p, 1);
        want(&p, (flags & 0xc0) == 0);
        cut(&p, (flags & 0x20 ? 16 : 0) + (flags & 0x10 ? 4 : 0), what);
        uint64_t length = take(&p, 1 << (flags & 3));
        Part messages = cut(&p, length, what);
        cut(&p, 4, what); // its checksum
        check_messages(f, messages, false, flags, &o);
    }
    for (int k = 1; k < KINDS; k++) { want(&p, o.counts[k] <= 1 || k == ATTRIBUTE || k == LINK || k == CONTINUES); }
    return o;
}

// ---- Datasets ------------------------------------------------------------------------------------------------------

static int log2_of(uint64_t n) {
    int bits = 0;
    while (n >>= 1) { bits++; }
    return bits;
}

// Chunks along the first axis, which has no limit, in an extensible array with libhdf5's parameters. They are bytes: 32
// bits of an index, 4 elements in the first block, at least 4 pointers and 16 elements in others (in the array's head
// the other way round), 10 bits of an index in a page.
static void check_chunks(const File *f, Part p, const Space *s, uint64_t size, bool sums) {
    want_number(&p, 1, 0);
    want_number(&p, 1, (uint64_t)s->rank + 1);
    uint64_t width = take(&p, 1), bytes = 1;
    want(&p, width >= 1 && width <= 8 && s->rank > 0);
    for (int i = 0; i <= s->rank; i++) {
        uint64_t side = take(&p, (int)width);
        want(&p, side > 0 && side < 1ull << 32 && bytes < (1ull << 32) / side);
        want(&p, i == 0 || side == (i < s->rank ? s->dims[i] : size));
        want(&p, i == s->rank || s->most[i] == (i ? s->dims[i] : NONE));
        bytes *= side;
    }
    want_number(&p, 1, 4);
    want_number(&p, 4, 0x10040420);
    want_number(&p, 1, 10);
    uint64_t at = take(&p, 8);
    want_end(&p);
    if (at == NONE) { return; }
    int length = 1 + (log2_of(bytes) + 8) / 8;
    uint64_t rows = bytes / size, chunks = s->dims[0], element = 8;
    for (int i = 1; i < s->rank; i++) { rows /= s->dims[i]; }
    chunks = chunks / rows + (chunks % rows > 0);
    if (sums) { element = 12 + (uint64_t)(length < 8 ? length : 8); }
    Part array = block_at(f, at, 72, "EAHD", 0, "an array of chunks");
    want_number(&array, 1, sums);
    want_number(&array, 1, element);
    want_number(&array, 4, 0x04100420);
    want_number(&array, 1, 10);
    cut(&array, 32, array.what); // blocks and their bytes
    uint64_t used = take(&array, 8);
    want(&array, used <= chunks && used <= f->size / element);
}

static void check_layout(const File *f, Part p, const Space *s, Type t, bool sums) {
    uint64_t version = take(&p, 1), kind = take(&p, 1), bytes = bytes_of(&p, s, t, NONE);
    want(&p, version == 3 || version == 4);
    if (version == 3 && kind == 2) {
        die("%s: has chunks in HDF5's old format, whose lists have no checksums: expected the one that encode writes "
            "(convert it with `h5repack --low=2 --high=2` or h5py's libver=\"v110\")",
            f->path);
    }
    if (kind == 0) { // in the message
        want_number(&p, 2, bytes);
        Part values = cut(&p, bytes, p.what);
        want_end(&p);
        if (t.variable) { check_variable(values, s->values); }
    } else if (kind == 1) { // in one piece
        uint64_t at = take(&p, 8);
        want_number(&p, 8, bytes);
        want_end(&p);
        want(&p, at == NONE || inside(f, at, bytes));
        if (t.variable && at != NONE) {
            check_variable((Part){f, f->bytes + at, f->bytes + at + bytes, p.what}, s->values);
        }
    } else {
        want(&p, kind == 2 && version == 4);
        check_chunks(f, p, s, t.size, sums);
    }
}

// Fletcher-32, and nothing else: other filters can give chunks of another size than libhdf5 believes.
static void check_filters(Part p, const char *name, int length) {
    Part first = p;
    take(&first, 1);
    if (take(&first, 1) != 1 || take(&first, 2) != 3) {
        die("%s: dataset \"%.*s\" is compressed or has another filter, expected plain values (convert it with "
            "`h5repack --filter=NONE --layout=CONTI --low=2 --high=2`, or copy it with h5py without filters "
            "and chunks)",
            p.file->path, length, name);
    }
    want_number(&p, 1, 2);
    want_number(&p, 1, 1);
    want_number(&p, 2, 3);
    want(&p, take(&p, 2) <= 1);
    want_number(&p, 2, 0);
    want_end(&p);
}

static void check_fill(Part p, uint64_t size) {
    uint64_t version = take(&p, 1), flags = take(&p, 1), given = flags & 0x20;
    want(&p, (version == 3 && (flags & 0xc0) == 0) || version == 2);
    if (version == 2) {
        want(&p, flags <= 3 && take(&p, 1) <= 2);
        given = take(&p, 1);
        want(&p, given <= 1);
    }
    if (given) {
        uint64_t bytes = take(&p, 4);
        want(&p, bytes == size || bytes == 0);
        cut(&p, bytes, p.what);
    }
    want_end(&p);
}

static void check_dataset(const File *f, uint64_t at, const char *name, int length) {
    Object o = object_at(f, at, false);
    Part *m = o.messages, all = {f, NULL, NULL, "a dataset"};
    want(&all, o.counts[SPACE] && o.counts[TYPE] && o.counts[LAYOUT]);
    bool elsewhere = o.counts[FILES] || (left(&m[LAYOUT]) > 2 && m[LAYOUT].at[1] == 3);
    if (elsewhere) { die("%s: dataset \"%.*s\" has values of other files, expected its own", f->path, length, name); }
    m[SPACE].what = "the shape of a dataset";
    m[TYPE].what = "the type of a dataset";
    m[LAYOUT].what = "the layout of a dataset";
    Space s = check_space(m[SPACE]);
    Type t = check_type(m[TYPE], false);
    if (o.counts[FILTERS]) { check_filters(m[FILTERS], name, length); }
    bool chunks = left(&m[LAYOUT]) > 2 && m[LAYOUT].at[0] == 4 && m[LAYOUT].at[1] == 2;
    if (chunks && (t.variable || (s.rank > 0 && s.most[0] != NONE))) {
        die("%s: dataset \"%.*s\" has chunks and %s, expected no chunks, or %s "
            "(convert it with `h5repack --layout=CONTI --low=2 --high=2`)",
            f->path, length, name, t.variable ? "texts of variable length" : "a fixed length",
            t.variable ? "texts of one length" : "a first axis without limit");
    }
    if (o.counts[FILL]) { check_fill(m[FILL], t.size); }
    check_layout(f, m[LAYOUT], &s, t, o.counts[FILTERS]);
}

// ---- The file ------------------------------------------------------------------------------------------------------

void h5_check(const char *path) {
    struct stat s;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &s) != 0) { die("%s: cannot be opened: %s", path, strerror(errno)); }
    uint64_t work = 0;
    File f = {.path = path, .size = (uint64_t)s.st_size, .work = &work};
    if (f.size < 48) { refuse(&f, "the file"); }
    map_guard();
    void *bytes = mmap(NULL, f.size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED) { die("%s: cannot be read: %s", path, strerror(errno)); }
    close(fd);
    f.bytes = bytes;
    Part p = {&f, f.bytes + 8, f.bytes + 48, "the file's begin"};
    uint64_t version = take(&p, 1);
    want(&p, version == 2 || version == 3);
    want_number(&p, 1, 8); // bytes of an address and of a length
    want_number(&p, 1, 8);
    want(&p, take(&p, 1) == 0);
    want_number(&p, 8, 0);
    want_number(&p, 8, NONE); // no extension
    uint64_t end = take(&p, 8), root = take(&p, 8);
    want(&p, end <= f.size);
    Object o = object_at(&f, root, true);
    want(&p, o.counts[LINKS]);
    munmap(bytes, f.size);
}

bool h5_chunks_fit(hid_t dataset, hsize_t row, hsize_t rows) {
    hsize_t chunk[H5S_MAX_RANK], start[H5S_MAX_RANK] = {0}, stored = 0, bytes = 1;
    hid_t made = H5Dget_create_plist(dataset), type = H5Dget_type(dataset);
    bool fit = true;
    if (H5Pget_layout(made) == H5D_CHUNKED) {
        int rank = H5Pget_chunk(made, H5S_MAX_RANK, chunk);
        for (int i = 0; i < rank; i++) { bytes *= chunk[i]; }
        bytes = bytes * H5Tget_size(type) + (H5Pget_nfilters(made) > 0 ? 4 : 0); // 4: Fletcher-32
        for (start[0] = row / chunk[0] * chunk[0]; start[0] < row + rows && fit; start[0] += chunk[0]) {
            fit = H5Dget_chunk_storage_size(dataset, start, &stored) >= 0 && (!stored || stored == bytes);
        }
    }
    H5Tclose(type);
    H5Pclose(made);
    return fit;
}
