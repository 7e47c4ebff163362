// A small byte-pair vocabulary for models with random weights: each word of the name of a colour, a shape or a COCO
// class is one token; everything else is split into bytes or shared pieces.
#include "model/init.h"
#include "model/tokenizer.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static const char words[] =
    "red green blue yellow purple orange pink brown black white gray grey cyan circle square triangle cross star ring "
    "diamond rectangle ellipse hexagon person bicycle car motorcycle airplane bus train truck boat traffic light fire "
    "hydrant stop sign parking meter bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella "
    "handbag tie suitcase frisbee skis snowboard sports ball kite baseball bat glove skateboard surfboard tennis "
    "racket bottle wine glass cup fork knife spoon bowl banana apple sandwich broccoli carrot hot pizza donut cake "
    "chair couch potted plant bed dining table toilet tv laptop mouse remote keyboard cell phone microwave oven "
    "toaster sink refrigerator book clock vase scissors teddy hair drier toothbrush banner blanket bridge cardboard "
    "counter curtain door stuff floor wood flower fruit gravel house mirror net pillow platform playingfield railroad "
    "river road roof sand sea shelf snow stairs tent towel wall brick stone tile water other window blind tree merged "
    "fence ceiling sky cabinet pavement mountain grass dirt paper food building rock rug a an the of and in on with "
    "photo picture small large left right man woman child animal field object";

enum { MAX_WORDS = 256, MAX_SYMBOLS = 32, MAX_TOKENS = 2048, BYTES = 256 };

typedef struct {
    int count;
    int ids[MAX_SYMBOLS]; // the word's pieces; at first its letters
} Word;

typedef struct {
    Word words[MAX_WORDS];
    int word_count;
    char *tokens[MAX_TOKENS]; // in the order of their ids
    int token_count;
    int merges[MAX_TOKENS][2];
    int merge_count;
    short pairs[MAX_TOKENS][MAX_TOKENS]; // [left][right]: how often right follows left
} Vocabulary;

static int by_code(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

// CLIP's order: the bytes' symbols by their code points, then all of them again with the mark of a word's end.
static void add_bytes(Vocabulary *v) {
    int code[BYTES];
    for (int b = 0; b < BYTES; b++) { code[b] = tokenizer_byte_code(b); }
    qsort(code, BYTES, sizeof *code, by_code);
    for (int end = 0; end < 2; end++) {
        for (int i = 0; i < BYTES; i++) {
            char symbol[8] = {0};
            utf8proc_encode_char(code[i], (utf8proc_uint8_t *)symbol);
            v->tokens[v->token_count++] = xprintf("%s%s", symbol, end ? "</w>" : "");
        }
    }
}

static void cut_words(Vocabulary *v) {
    for (const char *p = words; *p; p += strspn(p, " ")) {
        int n = (int)strcspn(p, " ");
        Word *w = &v->words[v->word_count++];
        for (int i = 0; i < n; i++) { w->ids[w->count++] = p[i] - '!' + (i + 1 == n ? BYTES : 0); }
        p += n;
    }
}

static void count_pairs(Vocabulary *v, int by) {
    for (int w = 0; w < v->word_count; w++) {
        const Word *word = &v->words[w];
        for (int i = 0; i + 1 < word->count; i++) { v->pairs[word->ids[i]][word->ids[i + 1]] += (short)by; }
    }
}

// Finds the most frequent pair of neighbours, the first among equals; false if every word is one token.
static bool best_pair(Vocabulary *v, int pair[2]) {
    int best = 0;
    count_pairs(v, 1);
    for (int w = 0; w < v->word_count; w++) {
        const Word *word = &v->words[w];
        for (int i = 0; i + 1 < word->count; i++) {
            int n = v->pairs[word->ids[i]][word->ids[i + 1]];
            if (n > best) {
                best = n;
                pair[0] = word->ids[i];
                pair[1] = word->ids[i + 1];
            }
        }
    }
    count_pairs(v, -1);
    return best > 0;
}

static void merge_in_word(Word *w, const int pair[2], int both) {
    for (int i = 0; i + 1 < w->count; i++) {
        if (w->ids[i] != pair[0] || w->ids[i + 1] != pair[1]) { continue; }
        w->ids[i] = both;
        memmove(w->ids + i + 1, w->ids + i + 2, (size_t)(w->count - i - 2) * sizeof *w->ids);
        w->count--;
    }
}

// Learns merges (Sennrich et al. 2016) on the list of words until each word is one token. Runs once; keeps the result.
static const Vocabulary *learn(void) {
    static Vocabulary *v;
    if (v) { return v; }
    v = xcalloc(1, sizeof *v);
    add_bytes(v);
    cut_words(v);
    for (int pair[2]; best_pair(v, pair);) {
        assert(v->token_count < MAX_TOKENS);
        memcpy(v->merges[v->merge_count++], pair, sizeof pair);
        v->tokens[v->token_count] = xprintf("%s%s", v->tokens[pair[0]], v->tokens[pair[1]]);
        for (int w = 0; w < v->word_count; w++) { merge_in_word(&v->words[w], pair, v->token_count); }
        v->token_count++;
    }
    return v;
}

static void write_vocab(const Vocabulary *v, int vocab_size, const char *folder) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    for (int i = 0; i < v->token_count; i++) { json_put_integer(gen, v->tokens[i], i); }
    json_put_integer(gen, "<|startoftext|>", vocab_size - 2);
    json_put_integer(gen, "<|endoftext|>", vocab_size - 1);
    yajl_gen_map_close(gen);
    json_write(gen, path_of("%s/vocab.json", folder).text);
}

static void write_merges(const Vocabulary *v, const char *folder) {
    AtomicFile file = atomic_open(path_of("%s/merges.txt", folder).text);
    fprintf(file.stream, "#version: 0.2\n");
    for (int i = 0; i < v->merge_count; i++) {
        fprintf(file.stream, "%s %s\n", v->tokens[v->merges[i][0]], v->tokens[v->merges[i][1]]);
    }
    atomic_commit(&file);
}

static void put_specials(yajl_gen gen, const Preset *preset) {
    json_put_string(gen, "bos_token", "<|startoftext|>");
    json_put_string(gen, "eos_token", "<|endoftext|>");
    json_put_string(gen, "pad_token", preset->pad_token);
    json_put_string(gen, "unk_token", "<|endoftext|>");
}

int tokenizer_write(const Preset *preset, const char *folder) {
    const Vocabulary *v = learn();
    int used = v->token_count + 2, vocab_size = preset->clip.vocab_size ? preset->clip.vocab_size : used;
    make_folders(folder);
    write_vocab(v, vocab_size, folder);
    write_merges(v, folder);
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    put_specials(gen, preset);
    yajl_gen_map_close(gen);
    json_write(gen, path_of("%s/special_tokens_map.json", folder).text);
    gen = json_writer();
    yajl_gen_map_open(gen);
    put_specials(gen, preset);
    json_put_boolean(gen, "add_prefix_space", false);
    json_put_boolean(gen, "do_lower_case", true);
    json_put_string(gen, "errors", "replace");
    json_put_integer(gen, "model_max_length", preset->tokens);
    json_put_string(gen, "tokenizer_class", "CLIPTokenizer");
    yajl_gen_map_close(gen);
    json_write(gen, path_of("%s/tokenizer_config.json", folder).text);
    return used;
}
