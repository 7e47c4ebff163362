// The questions of `cocogold analyze`. argv[0] is the question's name; command: the whole line, for the record. They
// return the exit code.
#pragma once

int analyze_latents(int argc, char **argv, const char *command);
int analyze_arms(int argc, char **argv, const char *command);
