// A tokenizer/ folder in either form, and a text that it encodes (model/tokenizer.c).
#include "model/tokenizer.h"
#include "tests/fuzz/fuzz.h"
#include "util/file.h"
#include <stdlib.h>
#include <string.h>

const char *const fuzz_files[] = {"vocab.json",
                                  "merges.txt",
                                  "special_tokens_map.json",
                                  "tokenizer_config.json",
                                  "added_tokens.json",
                                  "tokenizer.json",
                                  "text",
                                  NULL};
void fuzz_begin(void) {}
void fuzz_died(void) {}

void fuzz_one(void) {
    Tokenizer *tokenizer = tokenizer_open(fuzz_path(""));
    char *text = fuzz_has("text") ? read_file(fuzz_path("text"), NULL) : strdup("a Red circle's 12\xc3\xa9");
    int length = tokenizer_length(tokenizer), *ids = calloc((size_t)length, sizeof *ids);
    tokenizer_encode(tokenizer, text, ids, length);
    tokenizer_warn_length(tokenizer, "--text", text);
    tokenizer_vocab_size(tokenizer);
    free(ids);
    free(text);
    tokenizer_close(tokenizer);
}
