// CLIP's byte-pair encoding (Sennrich et al. 2016; Radford et al. 2021), from vocab.json + merges.txt or
// tokenizer.json.
#pragma once

typedef struct Tokenizer Tokenizer;

// From a pipeline's tokenizer/ folder. Begin, end and padding tokens come from special_tokens_map.json,
// tokenizer_config.json or tokenizer.json, never from the text encoder's config.
Tokenizer *tokenizer_open(const char *folder);
void tokenizer_close(Tokenizer *tokenizer);
int tokenizer_length(const Tokenizer *tokenizer); // model_max_length, 77
int tokenizer_vocab_size(const Tokenizer *tokenizer);
// The code point of GPT-2's printable symbol for a byte: printable Latin-1 stays the same, the others are from U+0100
// on.
int tokenizer_byte_code(int byte);
// Says on stderr how much of the text, the value of an option, the model does not read.
void tokenizer_warn_length(const Tokenizer *tokenizer, const char *option, const char *text);
// The tokens of a text without begin and end, and how many of them end a word. Fewer: words are in pieces.
void tokenizer_count(const Tokenizer *tokenizer, const char *text, int *tokens, int *words);
// ids[0..length): begin, at most length - 2 tokens, end, padding. Returns the number of ids before padding.
int tokenizer_encode(const Tokenizer *tokenizer, const char *text, int *ids, int length);
