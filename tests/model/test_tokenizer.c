// A vocabulary small enough to merge by hand; CLIP's own is compared with transformers in tests/reference.
#include "scratch.h"
#include "model/init.h"
#include "model/tokenizer.h"

static const char vocab[] =
    "{\"a\": 0, \"b\": 1, \"c\": 2, \"!\": 3, \"a</w>\": 4, \"b</w>\": 5, \"c</w>\": 6, \"!</w>\": 7,"
    " \"ab\": 8, \"bc</w>\": 9, \"abc</w>\": 10, \"aa\": 11, \"1</w>\": 12, \"<|startoftext|>\": 13,"
    " \"<|endoftext|>\": 14}";
static const char merges[] = "#version: 0.2\nb c</w>\na b\nab c</w>\na bc</w>\na a\n";
static const char config[] = "{\"model_max_length\": 8, \"tokenizer_class\": \"CLIPTokenizer\"}";
static const char map[] =
    "{\"pad_token\": \"!\", \"eos_token\": {\"content\": \"<|endoftext|>\", \"normalized\": true},"
    " \"unk_token\": {\"content\": \"<|endoftext|>\", \"normalized\": true}}";

static char *write_folder(const char *name) {
    char *folder = scratch_path(name);
    make_folders(folder);
    const char *const files[][2] = {{"vocab.json", vocab},
                                    {"merges.txt", merges},
                                    {"tokenizer_config.json", config},
                                    {"special_tokens_map.json", map}};
    for (int i = 0; i < 4; i++) { write_text(kept(xprintf("%s/%s", folder, files[i][0])), files[i][1]); }
    return folder;
}

static void check(const Tokenizer *t, const char *text, int count, const int *expected) {
    int ids[8];
    int found = tokenizer_encode(t, text, ids, 8);
    bool same = found == count;
    for (int i = 0; i < 8; i++) { same &= ids[i] == (i < count ? expected[i] : 3); }
    if (!same) {
        print_error("\"%s\": %d ids:", text, found);
        for (int i = 0; i < 8; i++) { print_error(" %d", ids[i]); }
        print_error("\n");
    }
    assert_true(same);
}
#define CHECK(t, text, ...) check(t, text, sizeof((int[]){__VA_ARGS__}) / sizeof(int), (int[]){__VA_ARGS__})

static void test_merges(void **state) {
    (void)state;
    Tokenizer *t = tokenizer_open(write_folder("plain"));
    assert_int_equal(tokenizer_length(t), 8);
    assert_int_equal(tokenizer_vocab_size(t), 15);
    CHECK(t, "", 13, 14);
    CHECK(t, "abc", 13, 10, 14); // b c</w> was learned first, then a bc</w>
    CHECK(t, " ABC\t\na ", 13, 10, 4, 14);
    CHECK(t, "ab", 13, 0, 5, 14); // no merge of a and b</w>
    CHECK(t, "aba", 13, 8, 4, 14);
    CHECK(t, "aaab", 13, 11, 0, 5, 14); // from the left
    CHECK(t, "a1b", 13, 4, 12, 5, 14);  // digits stand alone
    CHECK(t, "a!", 13, 4, 3, 14);       // the padding token is special wherever it stands
    CHECK(t, "ad", 13, 0, 14, 14);      // an unknown byte
    CHECK(t, "a<|endoftext|>b", 13, 4, 14, 5, 14);
    CHECK(t, "a<|EndOfText|>b", 13, 4, 14, 5, 14);           // looked for in the normalised text
    CHECK(t, "a b c a b c a b c", 13, 4, 5, 6, 4, 5, 6, 14); // cut to 8
    int ids[3];
    assert_int_equal(tokenizer_encode(t, "a b c", ids, 3), 3);
    assert_true(ids[0] == 13 && ids[1] == 4 && ids[2] == 14);
    tokenizer_close(t);
}

static void test_whole_file(void **state) {
    (void)state;
    char *folder = scratch_path("whole");
    make_folders(folder);
    write_text(kept(xprintf("%s/tokenizer_config.json", folder)),
               "{\"model_max_length\": 8, \"pad_token\": \"!\", \"eos_token\": \"<|endoftext|>\"}");
    const char *const lists[] = {
        "[\"b c</w>\", \"a b\", \"ab c</w>\", \"a bc</w>\", \"a a\"]",
        "[[\"b\",\"c</w>\"],[\"a\",\"b\"],[\"ab\",\"c</w>\"],[\"a\",\"bc</w>\"],[\"a\",\"a\"]]"};
    for (int i = 0; i < 2; i++) {
        write_text(
            kept(xprintf("%s/tokenizer.json", folder)),
            kept(xprintf("{\"added_tokens\": [{\"id\": 13, \"content\": \"<|startoftext|>\", \"special\": true,"
                         " \"normalized\": false}], \"model\": {\"type\": \"BPE\", \"vocab\": %s, \"merges\": %s}}",
                         vocab, lists[i])));
        Tokenizer *t = tokenizer_open(folder);
        CHECK(t, "abc aba a!", 13, 10, 8, 4, 4, 3, 14);
        tokenizer_close(t);
    }
}

static void test_own_vocabulary(void **state) {
    (void)state;
    static const char *const one[] = {"red", "circle", "person", "elephant", "refrigerator"};
    for (int p = 0; preset_names[p]; p++) {
        const Preset *preset = preset_find(preset_names[p]);
        char *folder = scratch_path(preset->name);
        int used = tokenizer_write(preset, folder);
        Tokenizer *t = tokenizer_open(folder);
        assert_int_equal(tokenizer_length(t), preset->tokens);
        int size = preset->clip.vocab_size ? preset->clip.vocab_size : used, ids[77];
        assert_int_equal(tokenizer_vocab_size(t), size);
        for (int i = 0; i < 5; i++) {
            assert_int_equal(tokenizer_encode(t, one[i], ids, 16), 3);
            assert_true(ids[0] == size - 2 && ids[1] < used - 2 && ids[2] == size - 1);
            assert_int_equal(ids[3], strcmp(preset->pad_token, "!") == 0 ? 0 : size - 1);
        }
        tokenizer_close(t);
        print_message("a vocabulary of %d tokens\n", used);
    }
}

static void open_it(const char *folder) { tokenizer_close(tokenizer_open(folder)); }
static void encode_bytes(const char *folder) {
    int ids[8];
    tokenizer_encode(tokenizer_open(folder), "a\xff", ids, 8);
}

static void test_words_in_pieces(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int tokens, words;
    } cases[] = {{"abc", 1, 1}, {"abc a", 2, 2}, {"ab", 2, 1}, {"cab a!", 5, 3}, {"", 0, 0}, {"abc x", 2, 1}};
    Tokenizer *t = tokenizer_open(write_folder("pieces"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int tokens, words;
        tokenizer_count(t, cases[i].text, &tokens, &words);
        printf("\"%s\": %d tokens, %d words\n", cases[i].text, tokens, words);
        assert_int_equal(tokens, cases[i].tokens);
        assert_int_equal(words, cases[i].words);
    }
    tokenizer_close(t);
}

static void test_damage(void **state) {
    (void)state;
    static const struct {
        const char *file, *text, *old, *new, *words;
    } cases[] = {
        {"vocab.json", vocab, "{", "", "vocab.json"},
        {"vocab.json", vocab, "\"ab\": 8", "\"ab\": -8", "\"ab\""},
        {"vocab.json", vocab, "\"ab\": 8", "\"ab\": \"8\"", "\"ab\""},
        {"vocab.json", vocab, "\"ab\": 8", "\"ab\": 4294967304", "\"ab\""},
        {"vocab.json", vocab, "\"ab\": 8", "\"x\": 8", "merge 2"},
        {"tokenizer_config.json", config, "\"model_max_length\"",
         "\"added_tokens_decoder\": {\"2147483647\": {\"content\": \"<new>\"}}, \"model_max_length\"", "<new>"},
        {"vocab.json", vocab, "\"<|startoftext|>\": 13,", "", "bos_token"},
        {"vocab.json", vocab, "\"<|endoftext|>\"", "\"<|end|>\"", "eos_token"},
        {"merges.txt", merges, "a b\n", "ab\n", "merge 2"},
        {"merges.txt", merges, "a b\n", "a b c\n", "merge 2"},
        {"tokenizer_config.json", config, "8", "2", "model_max_length"},
        {"tokenizer_config.json", config, "8", "\"8\"", "model_max_length"},
        {"tokenizer_config.json", config, "CLIPTokenizer", "T5Tokenizer", "tokenizer_class"},
        {"tokenizer_config.json", config, "\"model_max_length\"", "\"padding_side\": \"left\", \"x\"", "padding_side"},
        {"special_tokens_map.json", map, "\"!\"", "7", "pad_token"},
        {"special_tokens_map.json", map, "\"!\"", "\"\"", "pad_token"},
        {"special_tokens_map.json", map, "\"!\"", "\"<pad>\"", "pad_token"},
        {"special_tokens_map.json", map, "\"normalized\"", "\"rstrip\"", "rstrip"},
        {"special_tokens_map.json", map, "\"content\"", "\"text\"", "content"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *folder = write_folder("damaged");
        write_text(kept(xprintf("%s/%s", folder, cases[i].file)), replaced(cases[i].text, cases[i].old, cases[i].new));
        assert_dies(cases[i].words, open_it(folder));
    }
    assert_dies("tokenizer.json", open_it(scratch_path("nowhere")));
    assert_dies("UTF-8", encode_bytes(write_folder("damaged")));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_merges), cmocka_unit_test(test_whole_file),
                                       cmocka_unit_test(test_own_vocabulary), cmocka_unit_test(test_words_in_pieces),
                                       cmocka_unit_test(test_damage)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
