#!/usr/bin/env bash
# docs/CHANGING.md: the lines that its example removes are in the sources, once.
source "$(dirname "$0")/common.sh"
cp -r "$root"/train . && mkdir tests && cp -r "$root/tests/train" tests/
sed -n '/^```diff$/,/^```$/{/^```/d;p}' "$root/docs/CHANGING.md" >page.diff
check "it has an example" [ "$(grep -c '^+++ b/' page.diff)" = 4 ]
# shellcheck disable=SC2016 # Perl's variables
check "which can be applied" perl -e '
    my ($file, $old, $new);
    sub apply {
        return if !defined $old;
        open(my $in, "<", $file) or die "$file\n";
        my $text = do { local $/; <$in> };
        my $at = index($text, $old);
        die "$file: not once:\n$old" if $at < 0 || index($text, $old, $at + 1) >= 0;
        substr($text, $at, length $old) = $new;
        open(my $out, ">", $file) or die;
        print $out $text;
        ($old, $new) = (undef, undef);
    }
    while (<>) {
        if (/^--- /) { apply(); next }
        if (/^\+\+\+ b\/(.*)/) { apply(); $file = $1; next }
        if (/^@@/) { apply(); ($old, $new) = ("", ""); next }
        my $line = substr($_, 1);
        $old .= $line if !/^\+/;
        $new .= $line if !/^-/;
    }
    apply();' page.diff
check "the new name" grep -q '"focal", "l1", NULL' train/unet_options.c
finish
