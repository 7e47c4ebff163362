#include "data/picture_header.h"
#include <stb_image.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static uint32_t number_at(const uint8_t *p, int bytes, bool little) {
    uint32_t value = 0;
    for (int i = 0; i < bytes; i++) { value = value << 8 | p[little ? bytes - 1 - i : i]; }
    return value;
}

enum { ORIENTATION = 0x0112, ENTRY = 12 };

// The orientation in a TIFF structure of `size` bytes: "II*\0" or "MM\0*", the first directory's offset, its number of
// entries, and entries of tag, type (3: 16 bits), count, value. 0 where there is none.
static int tiff_orientation(const uint8_t *tiff, size_t size) {
    if (size < 8 || (memcmp(tiff, "II*\0", 4) != 0 && memcmp(tiff, "MM\0*", 4) != 0)) { return 0; }
    bool little = tiff[0] == 'I';
    size_t at = number_at(tiff + 4, 4, little);
    if (at > size - 2) { return 0; }
    int entries = (int)number_at(tiff + at, 2, little);
    at += 2;
    for (int i = 0; i < entries && at + ENTRY <= size; i++, at += ENTRY) {
        if (number_at(tiff + at, 2, little) != ORIENTATION) { continue; }
        bool wide = number_at(tiff + at + 2, 2, little) == 4; // some write 32 bits
        uint32_t value = number_at(tiff + at + 8, wide ? 4 : 2, little);
        return value >= 1 && value <= 8 ? (int)value : 0;
    }
    return 0;
}

// The orientation in XMP, which Pillow takes where EXIF has none: tiff:Orientation="6", or <tiff:Orientation>6<.
static int xmp_orientation(const uint8_t *bytes, size_t size) {
    static const char name[] = "tiff:Orientation";
    size_t length = sizeof name - 1;
    for (size_t i = 0; i + length + 3 <= size; i++) {
        if (memcmp(bytes + i, name, length) != 0) { continue; }
        const uint8_t *after = bytes + i + length;
        int digit = after[0] == '>' ? after[1] : after[0] == '=' && after[1] == '"' ? after[2] : 0;
        if (digit >= '1' && digit <= '8') { return digit - '0'; }
    }
    return 0;
}

typedef enum { SEGMENT_APP1, CHUNK_EXIF } Container;

// Reads `size` bytes of a JPEG's segment or a PNG's chunk; shorter files give 0.
static void read_orientation(FILE *file, size_t size, Container container, PictureHeader *h, int *xmp) {
    static const char exif[] = "Exif", adobe[] = "http://ns.adobe.com/xap/1.0/";
    uint8_t *bytes = malloc(size ? size : 1);
    bool whole = bytes && fread(bytes, 1, size, file) == size;
    if (whole && container == CHUNK_EXIF) {
        h->orientation = tiff_orientation(bytes, size);
    } else if (whole && size > 6 && memcmp(bytes, exif, sizeof exif) == 0) {
        if (!h->orientation) { h->orientation = tiff_orientation(bytes + 6, size - 6); }
    } else if (whole && size > sizeof adobe && memcmp(bytes, adobe, sizeof adobe) == 0) {
        *xmp = xmp_orientation(bytes, size);
    }
    free(bytes);
}

// Whether a segment of Huffman tables (class and number, the counts of codes of 1 to 16 bits, a byte for each code)
// has whole tables of at most 256 codes: stb_image 2.27 writes what is more behind its own tables.
static bool right_tables(FILE *file, size_t size) {
    uint8_t bytes[1 << 16];
    bool right = size <= sizeof bytes && fread(bytes, 1, size, file) == size;
    for (size_t at = 0; right && at < size;) {
        int codes = 0;
        for (size_t i = at + 1; i <= at + 16 && i < size; i++) { codes += bytes[i]; }
        at += 17 + (size_t)codes;
        right = codes <= 256 && at <= size;
    }
    return right;
}

// The next marker, or EOF: as decoders do, looks for it, also in the data of a scan, where 0xff 0x00 is a byte.
static int next_marker(FILE *file) {
    int c;
    do {
        for (c = getc_unlocked(file); c != EOF && c != 0xff;) { c = getc_unlocked(file); }
        while (c == 0xff) { c = getc_unlocked(file); }
    } while (c == 0 || c == 1 || (c >= 0xd0 && c <= 0xd8)); // those without a length
    return c;
}

enum { TABLES = 0xc4, END = 0xd9, SCAN = 0xda, APP1 = 0xe1, APP14 = 0xee };

static void read_jpeg(FILE *file, PictureHeader *h, int *xmp) {
    for (int c; (c = next_marker(file)) != EOF && c != END;) {
        uint8_t length[2], bytes[12];
        if (fread(length, 1, 2, file) != 2) { return; }
        long size = (long)number_at(length, 2, false) - 2, start = ftell(file);
        bool frame = c >= 0xc0 && c <= 0xcf && c != TABLES && c != 0xc8 && c != 0xcc;
        if (size < 0) { return; }
        if (frame && !h->components && size >= 6 && fread(bytes, 1, 6, file) == 6) {
            h->height = number_at(bytes + 1, 2, false);
            h->width = number_at(bytes + 3, 2, false);
            h->components = bytes[5];
        }
        if (c == TABLES && !right_tables(file, (size_t)size)) { h->bad_table = true; }
        h->scans += c == SCAN;
        if (c == APP14 && size >= 12 && fread(bytes, 1, 12, file) == 12 && memcmp(bytes, "Adobe", 6) == 0) {
            h->adobe = bytes[11] == 0 || bytes[11] == 2; // CMYK, YCCK: both inverted
        }
        if (c == APP1 && !h->scans) { read_orientation(file, (size_t)size, SEGMENT_APP1, h, xmp); }
        if (fseek(file, start + size, SEEK_SET) != 0) { return; }
    }
}

enum { MOST_EXIF = 1 << 20, MOST_TEXT = 1 << 18, MOST_TEXTS = 100 };

// The orientation in what ImageMagick writes as "Raw profile type exif": three lines ("", "exif", the size), and the
// bytes of EXIF in hexadecimal digits.
static int raw_orientation(const uint8_t *text, size_t size) {
    uint8_t *bytes = calloc(size / 2 + 1, 1);
    size_t digits = 0;
    int lines = 0, orientation = 0;
    for (size_t i = 0; bytes && i < size; i++) {
        int c = text[i] | 0x20, digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        lines += text[i] == '\n';
        if (lines < 3 || digit < 0) { continue; }
        bytes[digits / 2] = (uint8_t)(bytes[digits / 2] << 4 | digit);
        digits++;
    }
    size_t begin = digits > 12 && memcmp(bytes, "Exif", 5) == 0 ? 6 : 0;
    if (bytes) { orientation = tiff_orientation(bytes + begin, digits / 2 - begin); }
    free(bytes);
    return orientation;
}

// The bytes after the next zero, which end at `end` at the latest.
static const uint8_t *after_zero(const uint8_t *at, const uint8_t *end) {
    const uint8_t *zero = at < end ? memchr(at, 0, (size_t)(end - at)) : NULL;
    return zero ? zero + 1 : end;
}

// A chunk of text (tEXt, zTXt or iTXt): a keyword and a text, which may be compressed. Its first MOST_TEXT bytes count.
static void read_text(const char *type, const uint8_t *bytes, size_t size, int *raw, int *xmp) {
    static const char profile[] = "Raw profile type exif", adobe[] = "XML:com.adobe.xmp";
    const uint8_t *end = bytes + size, *text = after_zero(bytes, end);
    bool is_profile = size > sizeof profile && memcmp(bytes, profile, sizeof profile) == 0;
    bool is_adobe = size > sizeof adobe && memcmp(bytes, adobe, sizeof adobe) == 0, packed = type[0] == 'z';
    if (!is_profile && !is_adobe) { return; }
    if (type[0] == 'i') { // compressed or not, method, language, translated keyword
        packed = text < end && *text == 1;
        text = after_zero(after_zero(end - text > 2 ? text + 2 : end, end), end);
    } else if (packed && text < end) {
        text++; // method
    }
    uint8_t *plain = packed ? calloc(MOST_TEXT, 1) : NULL;
    size_t length = packed ? plain ? MOST_TEXT : 0 : (size_t)(end - text);
    if (plain) { stbi_zlib_decode_buffer((char *)plain, MOST_TEXT, (const char *)text, (int)(end - text)); }
    if (plain) { text = plain; }
    if (is_profile) { *raw = raw_orientation(text, length); }
    if (is_adobe) { *xmp = xmp_orientation(text, length); }
    free(plain);
}

static void read_text_chunk(FILE *file, const char *type, size_t size, int *raw, int *xmp) {
    uint8_t *bytes = malloc(size ? size : 1);
    if (bytes && fread(bytes, 1, size, file) == size) { read_text(type, bytes, size, raw, xmp); }
    free(bytes);
}

// As in Pillow, ImageMagick's text counts only where there is no chunk of EXIF, and XMP where neither has an
// orientation.
static void read_png(FILE *file, PictureHeader *h) {
    uint8_t head[8], side[8]; // length, type; width, height
    int raw = 0, xmp = 0, texts = 0;
    bool exif = false;
    for (bool first = true; fread(head, 1, 8, file) == 8; first = false) {
        long size = (long)number_at(head, 4, false), start = ftell(file);
        if (first && memcmp(head + 4, "IHDR", 4) == 0 && fread(side, 1, 8, file) == 8) {
            h->width = number_at(side, 4, false);
            h->height = number_at(side + 4, 4, false);
        }
        if (memcmp(head + 4, "eXIf", 4) == 0 && size < MOST_EXIF) {
            exif = true;
            read_orientation(file, (size_t)size, CHUNK_EXIF, h, NULL);
        }
        bool text = memcmp(head + 6, "Xt", 2) == 0 && memchr("tzi", head[4], 3); // tEXt, zTXt, iTXt
        if (text && size < MOST_EXIF && texts++ < MOST_TEXTS) {
            read_text_chunk(file, (const char *)head + 4, (size_t)size, &raw, &xmp);
        }
        if (memcmp(head + 4, "IEND", 4) == 0 || fseek(file, start + size + 4, SEEK_SET) != 0) { break; }
    }
    if (!h->orientation) { h->orientation = raw && !exif ? raw : xmp; }
}

PictureHeader picture_header(FILE *file) {
    PictureHeader h = {0};
    uint8_t magic[8] = {0};
    size_t n = fread(magic, 1, 8, file);
    if (n >= 2 && magic[0] == 0xff && magic[1] == 0xd8) {
        fseek(file, 2, SEEK_SET);
        int xmp = 0;
        read_jpeg(file, &h, &xmp);
        if (!h.orientation) { h.orientation = xmp; }
    } else if (n == 8 && memcmp(magic, "\x89PNG\r\n\x1a\n", 8) == 0) {
        read_png(file, &h);
    }
    return h;
}
