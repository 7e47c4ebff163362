// The steps of transformers' CLIPTokenizer: added tokens are cut out of the text; the rest is normalised (NFC, runs of
// white space to one space, lower case), cut into words by a pattern, and each word's bytes, the last one marked with
// "</w>", are merged pair by pair in the order of the learned merges.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/tokenizer.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include <assert.h>
#include <limits.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

typedef struct {
    const char *text;
    int id;
} Entry;

typedef struct {
    int left, right; // token ids
    int rank, id;    // order of learning; the merged token
} Merge;

typedef struct {
    char *content; // after normalisation where `normalized`
    int id;
    bool normalized; // searched for in the normalised text, else in the original text
    int forms;       // how it was given: a sum of FORM_...
} Added;
enum { FORM_STRING = 1, FORM_OBJECT = 2, FORM_LISTED = 3 };

enum { BEGIN, END, UNKNOWN, PAD, SPECIALS };
static const char *const special_fields[SPECIALS] = {"bos_token", "eos_token", "unk_token", "pad_token"};

struct Tokenizer {
    char *path;    // of the file that the vocabulary comes from
    Entry *vocab;  // sorted by text; texts live in `strings`
    Merge *merges; // sorted by (left, right)
    Added *added;
    char *special_names[SPECIALS];
    int vocab_count, vocab_size, merge_count, added_count, length;
    int special[SPECIALS];
    int byte_id[256], last_byte_id[256]; // of a single byte, and of one that ends a word
    pcre2_code *words;
    Json vocab_json; // keeps the vocabulary's strings
};

// ---- Vocabulary and merges -----------------------------------------------------------------------------------------

static int by_text(const void *a, const void *b) { return strcmp(((const Entry *)a)->text, ((const Entry *)b)->text); }

static int by_pair(const void *a, const void *b) {
    const Merge *x = a, *y = b;
    return x->left != y->left ? (x->left > y->left) - (x->left < y->left)
                              : (x->right > y->right) - (x->right < y->right);
}

// The id of a token, or -1.
static int find_token(const Tokenizer *t, const char *text) {
    Entry key = {.text = text};
    const Entry *found = bsearch(&key, t->vocab, (size_t)t->vocab_count, sizeof key, by_text);
    return found ? found->id : -1;
}

enum { LARGEST_ID = 1 << 24 };

static void read_vocab(Tokenizer *t, yajl_val vocab) {
    if (!vocab || !YAJL_IS_OBJECT(vocab) || YAJL_GET_OBJECT(vocab)->len == 0) {
        die("%s: the vocabulary is missing, expected an object of tokens and ids", t->path);
    }
    t->vocab_count = (int)YAJL_GET_OBJECT(vocab)->len;
    t->vocab = xmalloc((size_t)t->vocab_count * sizeof *t->vocab);
    for (int i = 0; i < t->vocab_count; i++) {
        yajl_val id = YAJL_GET_OBJECT(vocab)->values[i];
        const char *text = YAJL_GET_OBJECT(vocab)->keys[i];
        if (!YAJL_IS_INTEGER(id) || YAJL_GET_INTEGER(id) < 0 || YAJL_GET_INTEGER(id) > LARGEST_ID) {
            die("%s: the id of token \"%s\" is not a non-negative integer", t->path, text);
        }
        t->vocab[i] = (Entry){text, (int)YAJL_GET_INTEGER(id)};
        if (t->vocab[i].id >= t->vocab_size) { t->vocab_size = t->vocab[i].id + 1; }
    }
    qsort(t->vocab, (size_t)t->vocab_count, sizeof *t->vocab, by_text);
}

static void add_merge(Tokenizer *t, const char *path, int rank, const char *left, const char *right) {
    char *both = xprintf("%s%s", left, right);
    Merge m = {find_token(t, left), find_token(t, right), rank, find_token(t, both)};
    if (m.left < 0 || m.right < 0 || m.id < 0) {
        die("%s: merge %d (\"%s\" and \"%s\") uses a token that is not in the vocabulary", path, rank + 1, left, right);
    }
    free(both);
    GROW(t->merges, rank);
    t->merges[rank] = m;
    t->merge_count = rank + 1;
}

// Sorts by pair. If a pair is listed twice, the later rank counts, as in the reference.
static void sort_merges(Tokenizer *t) {
    if (t->merge_count == 0) { return; }
    qsort(t->merges, (size_t)t->merge_count, sizeof *t->merges, by_pair);
    int kept = 0;
    for (int i = 0; i < t->merge_count; i++) {
        bool same = kept > 0 && by_pair(&t->merges[kept - 1], &t->merges[i]) == 0;
        if (same && t->merges[kept - 1].rank > t->merges[i].rank) { continue; }
        kept += !same;
        t->merges[kept - 1] = t->merges[i];
    }
    t->merge_count = kept;
}

// Splits "left right" in place and returns "right"; dies if it is not two words.
static char *cut_pair(char *line, const char *path, int rank) {
    char *space = strchr(line, ' ');
    if (!space || space == line || !space[1] || strchr(space + 1, ' ')) {
        die("%s: merge %d is \"%s\", expected two tokens separated by a space", path, rank + 1, line);
    }
    *space = 0;
    return space + 1;
}

static void read_merges_text(Tokenizer *t, const char *path) {
    char *text = read_file(path, NULL);
    char *rest = NULL;
    int rank = 0;
    for (char *line = strtok_r(text, "\r\n", &rest); line; line = strtok_r(NULL, "\r\n", &rest)) {
        if (strncmp(line, "#version", 8) == 0) { continue; }
        char *right = cut_pair(line, path, rank);
        add_merge(t, path, rank++, line, right);
    }
    free(text);
}

// ["a b", ...] or, newer, [["a", "b"], ...]
static void read_merges_json(Tokenizer *t, yajl_val list) {
    if (!list || !YAJL_IS_ARRAY(list)) { die("%s: field \"model.merges\" is missing or not a list", t->path); }
    for (int i = 0; i < (int)YAJL_GET_ARRAY(list)->len; i++) {
        yajl_val entry = YAJL_GET_ARRAY(list)->values[i];
        if (YAJL_IS_STRING(entry)) {
            char *left = xstrdup(YAJL_GET_STRING(entry)), *right = cut_pair(left, t->path, i);
            add_merge(t, t->path, i, left, right);
            free(left);
            continue;
        }
        const char *pair[2] = {NULL, NULL};
        for (size_t k = 0; k < 2 && YAJL_IS_ARRAY(entry) && YAJL_GET_ARRAY(entry)->len == 2; k++) {
            pair[k] = YAJL_GET_STRING(YAJL_GET_ARRAY(entry)->values[k]);
        }
        if (!pair[0] || !pair[1]) { die("%s: merge %d is not a pair of tokens", t->path, i + 1); }
        add_merge(t, t->path, i, pair[0], pair[1]);
    }
}

int tokenizer_byte_code(int byte) {
    int code = 0, others = 0;
    for (int b = 0; b <= byte; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b != 173);
        code = printable ? b : 256 + others++;
    }
    return code;
}

static void find_bytes(Tokenizer *t) {
    for (int b = 0; b < 256; b++) {
        char symbol[16] = {0};
        utf8proc_encode_char(tokenizer_byte_code(b), (utf8proc_uint8_t *)symbol);
        t->byte_id[b] = find_token(t, symbol);
        strcat(symbol, "</w>");
        t->last_byte_id[b] = find_token(t, symbol);
        if (t->byte_id[b] < 0) { t->byte_id[b] = t->special[UNKNOWN]; }
        if (t->last_byte_id[b] < 0) { t->last_byte_id[b] = t->special[UNKNOWN]; }
    }
}

// ---- Normalisation -------------------------------------------------------------------------------------------------

// Unicode's White_Space. SPACE has the same characters.
static bool is_space(utf8proc_int32_t c) {
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}
#define SPACE                                                                                                          \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

// The result is to be freed.
static char *normalise(const char *text, size_t length) {
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length, &composed,
                                      UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (n < 0) { die("the text \"%.*s\" is not valid UTF-8", (int)length, text); }
    char *out = xmalloc((size_t)n * 2 + 8), *end = out; // at worst 2 bytes become 3 in lower case
    for (utf8proc_ssize_t i = 0; i < n;) {
        utf8proc_int32_t c;
        i += utf8proc_iterate(composed + i, n - i, &c);
        if (is_space(c)) {
            if (end == out || end[-1] != ' ') { *end++ = ' '; }
        } else if (c == 0x130) { // the one letter whose lower case is two characters: i and a dot above
            memcpy(end, "i\xcc\x87", 3);
            end += 3;
        } else {
            end += utf8proc_encode_char(utf8proc_tolower(c), (utf8proc_uint8_t *)end);
        }
    }
    *end = 0;
    free(composed);
    return out;
}

// ---- Special and added tokens --------------------------------------------------------------------------------------

static Added *find_added(Tokenizer *t, const char *content) {
    for (int i = 0; i < t->added_count; i++) {
        if (strcmp(t->added[i].content, content) == 0) { return &t->added[i]; }
    }
    return NULL;
}

// id: -1 for the next one.
static void add_token(Tokenizer *t, const char *content, long long id, bool normalized) {
    if (!*content || find_added(t, content)) { return; }
    int known = find_token(t, content);
    id = known >= 0 ? known : id >= 0 ? id : t->vocab_size;
    if (id > LARGEST_ID) { die("%s: the id of token \"%s\" is above %d", t->path, content, LARGEST_ID); }
    if (id >= t->vocab_size) { t->vocab_size = (int)id + 1; }
    GROW(t->added, t->added_count);
    t->added[t->added_count++] = (Added){xstrdup(content), (int)id, normalized, FORM_LISTED};
}

// {"content": "...", "normalized": ...}; dies if the token strips white space or needs word borders.
static const char *read_added(const char *path, yajl_val token, bool *normalized) {
    static const char *const off[] = {"lstrip", "rstrip", "single_word"};
    yajl_val content = json_find(token, "content"), special = json_find(token, "special"),
             flag = json_find(token, "normalized");
    if (!content || !YAJL_IS_STRING(content)) { die("%s: an added token has no \"content\"", path); }
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
        yajl_val value = json_find(token, off[i]);
        if (value && !YAJL_IS_FALSE(value)) {
            die("%s: added token \"%s\" has field \"%s\" set, which is not supported", path, YAJL_GET_STRING(content),
                off[i]);
        }
    }
    *normalized = flag ? YAJL_IS_TRUE(flag) : special && YAJL_IS_FALSE(special);
    return YAJL_GET_STRING(content);
}

// tokenizer_config.json's {"49406": {"content": ...}, ...}
static void read_added_decoder(Tokenizer *t, const char *path, yajl_val map) {
    for (size_t i = 0; map && YAJL_IS_OBJECT(map) && i < YAJL_GET_OBJECT(map)->len; i++) {
        bool normalized;
        const char *content = read_added(path, YAJL_GET_OBJECT(map)->values[i], &normalized);
        add_token(t, content, atoll(YAJL_GET_OBJECT(map)->keys[i]), normalized);
    }
}

// tokenizer.json's [{"id": 49406, "content": ...}, ...]
static void read_added_list(Tokenizer *t, const char *path, yajl_val list) {
    for (size_t i = 0; list && YAJL_IS_ARRAY(list) && i < YAJL_GET_ARRAY(list)->len; i++) {
        bool normalized;
        yajl_val token = YAJL_GET_ARRAY(list)->values[i], id = json_find(token, "id");
        const char *content = read_added(path, token, &normalized);
        add_token(t, content, id && YAJL_IS_INTEGER(id) ? YAJL_GET_INTEGER(id) : -1, normalized);
    }
}

// added_tokens.json, used before tokenizer_config.json listed all tokens: {"<token>": 49408, ...}
static void read_added_file(Tokenizer *t, const char *folder) {
    Path path = path_of("%s/added_tokens.json", folder);
    if (!file_exists(path.text)) { return; }
    Json json = json_read(path.text);
    if (!YAJL_IS_OBJECT(json.root)) { die("%s: is not a JSON object of tokens and ids", path.text); }
    for (size_t i = 0; i < YAJL_GET_OBJECT(json.root)->len; i++) {
        const char *content = YAJL_GET_OBJECT(json.root)->keys[i];
        yajl_val id = YAJL_GET_OBJECT(json.root)->values[i];
        bool special = false;
        for (int s = 0; s < SPECIALS; s++) { special |= strcmp(t->special_names[s], content) == 0; }
        add_token(t, content, YAJL_IS_INTEGER(id) ? YAJL_GET_INTEGER(id) : -1, !special);
    }
    json_free(&json);
}

typedef struct {
    bool object[SPECIALS], normalized[SPECIALS];
} SpecialFlags;

// Adds a special token that is in no list. The same token may be given as an object and, for another purpose, as a
// string (Stable Diffusion 1: eos_token and pad_token): transformers then adds it twice, and the second one counts.
static void add_special(Tokenizer *t, const char *content, const SpecialFlags *flags, int s) {
    int form = flags->object[s] ? FORM_OBJECT : FORM_STRING;
    Added *token = find_added(t, content);
    if (!token) {
        add_token(t, content, -1, flags->normalized[s]);
        t->added[t->added_count - 1].forms = form;
    } else if (!(token->forms & form)) {
        token->normalized = flags->normalized[s];
        token->forms |= form;
    }
}

// Reads the special tokens that a file names, as strings or objects.
static void read_specials(Tokenizer *t, const Json *json, SpecialFlags *flags) {
    for (int s = 0; s < SPECIALS; s++) {
        yajl_val value = json_find(json->root, special_fields[s]);
        if (!value) { continue; }
        bool normalized = false;
        const char *name = YAJL_IS_STRING(value)   ? YAJL_GET_STRING(value)
                           : YAJL_IS_OBJECT(value) ? read_added(json->path, value, &normalized)
                                                   : NULL;
        if (!name) { die("%s: field \"%s\" is neither a string nor a token", json->path, special_fields[s]); }
        free(t->special_names[s]);
        t->special_names[s] = xstrdup(name);
        flags->object[s] = YAJL_IS_OBJECT(value);
        flags->normalized[s] = normalized;
    }
}

static void refuse_sides(const Json *config) {
    static const char *const fields[] = {"padding_side", "truncation_side"};
    for (int i = 0; i < 2; i++) {
        const char *side = json_string(config, fields[i], "right");
        if (strcmp(side, "right") != 0) {
            die("%s: field \"%s\" is \"%s\", only \"right\" is supported", config->path, fields[i], side);
        }
    }
    const char *class = json_string(config, "tokenizer_class", "CLIPTokenizer");
    if (strcmp(class, "CLIPTokenizer") != 0 && strcmp(class, "CLIPTokenizerFast") != 0) {
        die("%s: field \"tokenizer_class\" is \"%s\", only CLIPTokenizer is supported", config->path, class);
    }
}

static int read_length(const Json *config) {
    double length = json_number(config, "model_max_length", 77);
    if (length > 1e6) { length = 77; } // "no limit" is written as 1e30: take CLIP's limit
    if (length < 3 || length != (int)length) {
        die("%s: field \"model_max_length\" is %g, expected an integer of at least 3", config->path, length);
    }
    return (int)length;
}

// Reads in transformers' order: tokenizer_config.json; if it does not list added tokens, also special_tokens_map.json,
// which takes precedence, then tokenizer.json's list and added_tokens.json.
static void read_settings(Tokenizer *t, const char *folder, bool whole_file) {
    Path config_path = path_of("%s/tokenizer_config.json", folder);
    Path map_path = path_of("%s/special_tokens_map.json", folder);
    SpecialFlags flags = {0};
    for (int s = 0; s < SPECIALS; s++) {
        t->special_names[s] = xstrdup(s == BEGIN ? "<|startoftext|>" : "<|endoftext|>");
    }
    t->length = 77;
    bool listed = false;
    if (file_exists(config_path.text)) {
        Json config = json_read(config_path.text);
        refuse_sides(&config);
        t->length = read_length(&config);
        read_specials(t, &config, &flags);
        yajl_val decoder = json_find(config.root, "added_tokens_decoder");
        listed = decoder != NULL;
        read_added_decoder(t, config_path.text, decoder);
        json_free(&config);
    }
    if (!listed && file_exists(map_path.text)) {
        Json map = json_read(map_path.text);
        read_specials(t, &map, &flags);
        json_free(&map);
    }
    if (!listed && whole_file) { read_added_list(t, t->path, json_find(t->vocab_json.root, "added_tokens")); }
    if (!listed) { read_added_file(t, folder); }
    for (int s = 0; s < SPECIALS; s++) {
        if (!*t->special_names[s]) { die("%s: field \"%s\" is empty", config_path.text, special_fields[s]); }
        add_special(t, t->special_names[s], &flags, s);
    }
}

// Sets the ids of the special tokens, and normalises the tokens that are searched for in normalised text.
static void settle_specials(Tokenizer *t, int words) {
    for (int s = 0; s < SPECIALS; s++) {
        const Added *token = find_added(t, t->special_names[s]);
        t->special[s] = token->id;
        if (token->id >= words) {
            die("%s: the %s \"%s\" is not in the vocabulary", t->path, special_fields[s], t->special_names[s]);
        }
    }
    for (int i = 0; i < t->added_count; i++) {
        if (!t->added[i].normalized) { continue; }
        char *pattern = normalise(t->added[i].content, strlen(t->added[i].content));
        free(t->added[i].content);
        t->added[i].content = pattern;
    }
}

static pcre2_code *compile_words(void) {
    static const char pattern[] = "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|\\p{L}+|\\p{N}|"
                                  "[^" SPACE "\\p{L}\\p{N}]+";
    int error;
    PCRE2_SIZE where;
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error, &where, NULL);
    assert(code);
    return code;
}

Tokenizer *tokenizer_open(const char *folder) {
    Tokenizer *t = xcalloc(1, sizeof *t);
    Path whole = path_of("%s/tokenizer.json", folder), vocab = path_of("%s/vocab.json", folder);
    bool whole_file = file_exists(whole.text);
    if (!whole_file && !file_exists(vocab.text)) {
        die("%s: has neither tokenizer.json nor vocab.json and merges.txt", folder);
    }
    t->path = xstrdup(whole_file ? whole.text : vocab.text);
    t->vocab_json = json_read(t->path);
    yajl_val model = whole_file ? json_find(t->vocab_json.root, "model") : NULL;
    read_vocab(t, whole_file ? (model ? json_find(model, "vocab") : NULL) : t->vocab_json.root);
    int words = t->vocab_size;
    if (whole_file) {
        read_merges_json(t, json_find(model, "merges"));
    } else {
        read_merges_text(t, path_of("%s/merges.txt", folder).text);
    }
    sort_merges(t);
    read_settings(t, folder, whole_file);
    settle_specials(t, words);
    find_bytes(t);
    t->words = compile_words();
    return t;
}

void tokenizer_close(Tokenizer *t) {
    if (!t) { return; }
    for (int i = 0; i < t->added_count; i++) { free(t->added[i].content); }
    for (int s = 0; s < SPECIALS; s++) { free(t->special_names[s]); }
    pcre2_code_free(t->words);
    json_free(&t->vocab_json);
    free(t->added);
    free(t->merges);
    free(t->vocab);
    free(t->path);
    free(t);
}

int tokenizer_length(const Tokenizer *t) { return t->length; }
int tokenizer_vocab_size(const Tokenizer *t) { return t->vocab_size; }

// ---- Encoding ------------------------------------------------------------------------------------------------------

typedef struct {
    int *ids, count, capacity; // what does not fit is dropped
} Ids;

static void push(Ids *out, int id) {
    if (out->count < out->capacity) { out->ids[out->count++] = id; }
}

static const Merge *find_merge(const Tokenizer *t, int left, int right) {
    if (t->merge_count == 0) { return NULL; }
    Merge key = {.left = left, .right = right};
    return bsearch(&key, t->merges, (size_t)t->merge_count, sizeof key, by_pair);
}

static int rank_of(const Tokenizer *t, const int *symbols, int i, int n) {
    const Merge *m = i >= 0 && i + 1 < n ? find_merge(t, symbols[i], symbols[i + 1]) : NULL;
    return m ? m->rank : INT_MAX;
}

// Merges the pair that was learned first (the leftmost among equals) until no pair is left.
static void encode_word(const Tokenizer *t, const char *bytes, int n, Ids *out) {
    int *symbols = xmalloc((size_t)n * 2 * sizeof *symbols), *ranks = symbols + n;
    for (int i = 0; i < n; i++) {
        unsigned char b = (unsigned char)bytes[i];
        symbols[i] = i + 1 < n ? t->byte_id[b] : t->last_byte_id[b];
    }
    for (int i = 0; i < n; i++) { ranks[i] = rank_of(t, symbols, i, n); }
    for (;;) {
        int best = 0;
        for (int i = 1; i < n; i++) { best = ranks[i] < ranks[best] ? i : best; }
        if (ranks[best] == INT_MAX) { break; }
        symbols[best] = find_merge(t, symbols[best], symbols[best + 1])->id;
        memmove(symbols + best + 1, symbols + best + 2, (size_t)(n - best - 2) * sizeof *symbols);
        memmove(ranks + best + 1, ranks + best + 2, (size_t)(n - best - 2) * sizeof *ranks);
        n--;
        ranks[best] = rank_of(t, symbols, best, n);
        if (best > 0) { ranks[best - 1] = rank_of(t, symbols, best - 1, n); }
    }
    for (int i = 0; i < n; i++) { push(out, symbols[i]); }
    free(symbols);
}

static void encode_words(const Tokenizer *t, const char *text, size_t length, Ids *out) {
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(match);
    for (size_t at = 0; out->count < out->capacity; at = span[1]) {
        if (pcre2_match(t->words, (PCRE2_SPTR)text, length, at, PCRE2_NO_UTF_CHECK, match, NULL) < 0) { break; }
        const char *word = text + span[0];
        int n = (int)(span[1] - span[0]);
        if (n > 4 && strncmp(word, "<|", 2) == 0 && word[n - 1] == '>' && word[2] >= 'a' && word[2] <= 'z') {
            // a special token's name as plain text: the byte-level step's own pattern splits it again
            encode_word(t, word, 2, out);
            encode_word(t, word + 2, n - 4, out);
            encode_word(t, word + n - 2, 2, out);
        } else {
            encode_word(t, word, n, out);
        }
    }
    pcre2_match_data_free(match);
}

// The longest added token at the beginning of the text.
static const Added *match_added(const Tokenizer *t, const char *text, size_t length, bool normalized) {
    const Added *best = NULL;
    size_t best_length = 0;
    for (int i = 0; i < t->added_count; i++) {
        size_t n = strlen(t->added[i].content);
        if (t->added[i].normalized == normalized && n <= length && n > best_length &&
            memcmp(text, t->added[i].content, n) == 0) {
            best = &t->added[i];
            best_length = n;
        }
    }
    return best;
}

static void encode_span(const Tokenizer *t, const char *text, size_t length, bool normalized, Ids *out);

static void encode_between(const Tokenizer *t, const char *text, size_t length, bool normalized, Ids *out) {
    if (normalized) {
        encode_words(t, text, length, out);
    } else if (length > 0) {
        char *clean = normalise(text, length);
        encode_span(t, clean, strlen(clean), true, out);
        free(clean);
    }
}

// Encodes added tokens and the text between them: first in the original text, then in each normalised piece of it.
static void encode_span(const Tokenizer *t, const char *text, size_t length, bool normalized, Ids *out) {
    size_t start = 0;
    for (size_t i = 0; i < length;) {
        const Added *token = match_added(t, text + i, length - i, normalized);
        if (!token) {
            i++;
            continue;
        }
        encode_between(t, text + start, i - start, normalized, out);
        push(out, token->id);
        i += strlen(token->content);
        start = i;
    }
    encode_between(t, text + start, length - start, normalized, out);
}

int tokenizer_encode(const Tokenizer *t, const char *text, int *ids, int length) {
    assert(length >= 2);
    Ids out = {ids, 0, 1};
    push(&out, t->special[BEGIN]);
    out.capacity = length - 1;
    encode_span(t, text, strlen(text), false, &out);
    out.capacity = length;
    push(&out, t->special[END]);
    for (int i = out.count; i < length; i++) { ids[i] = t->special[PAD]; }
    return out.count;
}

// All ids of a text, with begin and end; freed by the caller.
static int *encode_all(const Tokenizer *t, const char *text, int *count) {
    int capacity = (int)strlen(text) + 2; // a token has at least one byte
    int *ids = xmalloc((size_t)capacity * sizeof *ids);
    *count = tokenizer_encode(t, text, ids, capacity);
    return ids;
}

// Added tokens count, except the one that stands for unknown bytes.
static bool ends_word(const Tokenizer *t, int id) {
    for (int i = 0; i < t->added_count; i++) {
        if (t->added[i].id == id) { return id != t->special[UNKNOWN]; }
    }
    for (int i = 0; i < t->vocab_count; i++) {
        const char *text = t->vocab[i].text;
        size_t n = t->vocab[i].id == id ? strlen(text) : 0;
        if (n >= 4 && strcmp(text + n - 4, "</w>") == 0) { return true; }
    }
    return false;
}

void tokenizer_count(const Tokenizer *t, const char *text, int *tokens, int *words) {
    int count, *ids = encode_all(t, text, &count);
    *tokens = count - 2;
    *words = 0;
    for (int i = 1; i < count - 1; i++) { *words += ends_word(t, ids[i]); }
    free(ids);
}

void tokenizer_warn_length(const Tokenizer *t, const char *option, const char *text) {
    int most = tokenizer_length(t), count;
    free(encode_all(t, text, &count));
    if (count > most) {
        warn("%s has %d tokens, of which the model reads only the first %d", option, count - 2, most - 2);
    }
}
