// Tests of the simulator on PTX written by hand, so without nvcc: what each instruction computes, and that each fault
// is reported. test_kernels.cu tests it on CUDA kernels.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
#undef fail // cmocka's macro; Launch::fail is another function
}
#include "launch.h"
#include <cmath>
#include <cstring>

using namespace sim;

// A kernel k(out) around `body`; `before` is what stands outside of it.
static std::string kernel_around(const std::string &body, const std::string &before = "") {
    return ".version 8.0\n.target sm_80\n.address_size 64\n" + before +
           ".visible .entry k(.param .u64 .ptr .global .align 8 out)\n{\n"
           ".reg .pred %p<9>;\n.reg .b16 %rs<9>;\n.reg .b32 %r<30>;\n.reg .b64 %rd<9>;\n.reg .f32 %f<30>;\n.reg .f64 "
           "%fd<9>;\n"
           "ld.param.u64 %rd8, [out];\nmov.u32 %r29, %tid.x;\n" +
           body + "\nret;\n}\n";
}

struct Run {
    std::string findings, fault;
    u64 out[1024];
};

// Runs the kernel with the race check on memory that holds 0 to 1023.
static Run run_text(const std::string &text, u32 threads, Options options = {}) {
    Run run;
    u64 *memory = (u64 *)device_allocate(sizeof run.out);
    for (u64 n = 0; n < 1024; n++) { memory[n] = n; }
    void *arguments[] = {&memory};
    Result result;
    options.races = true;
    try {
        const auto module = parse_module(text);
        launch(*module, module->kernels.at("k"), {1, 1, 1}, {threads, 1, 1}, 0, arguments, options, nullptr, &result);
    } catch (const Error &error) { run.fault = error.what(); }
    run.findings = result.findings;
    memcpy(run.out, memory, sizeof run.out);
    device_free(memory);
    return run;
}

// ---- Values ---------------------------------------------------------------------------------------------------------

struct Value {
    const char *body, *type, *result; // what is stored afterwards
    u64 expected;
};
#define F32_1 "0f3F800000"
#define F32_NAN "0f7FFFFFFF"
static const Value values[] = {
    {"mov.u32 %r0, 7;", "b32", "%r0", 7},
    {"mov.b32 %r0, {258, 1};", "b32", "%r0", 0x10102},
    {"mov.b64 {%r0, %r1}, 0x100000002;", "b32", "%r1", 1},
    {"{ .reg .b32 %temp; mov.b64 {%temp, %r0}, 0x700000002; }", "b32", "%r0", 7},
    {"mov.u32 %r0, %ntid.x; mov.u32 %r1, %nctaid.y; mov.u32 %r2, %ctaid.x; add.s32 %r0, %r0, %r1;", "b32", "%r0", 33},
    {"add.s32 %r0, 2147483647, 1;", "b32", "%r0", 0x80000000},
    {"sub.s64 %rd0, 1, 2;", "b64", "%rd0", ~0ull},
    {"mul.lo.s32 %r0, -3, 5;", "b32", "%r0", (u32)-15},
    {"mul.hi.u32 %r0, 4294967295, 4294967295;", "b32", "%r0", 0xfffffffe},
    {"mul.hi.s32 %r0, -2, 1;", "b32", "%r0", 0xffffffff},
    {"mul.wide.s32 %rd0, -3, 5;", "b64", "%rd0", (u64)-15},
    {"mul.wide.u16 %r0, 65535, 65535;", "b32", "%r0", 65535u * 65535u},
    {"mad.lo.s32 %r0, -3, 5, 16;", "b32", "%r0", 1},
    {"div.s32 %r0, -7, 2;", "b32", "%r0", (u32)-3},
    {"div.u32 %r0, 7, 0;", "b32", "%r0", 0xffffffff},
    {"div.s32 %r0, -2147483648, -1;", "b32", "%r0", 0x80000000},
    {"rem.s32 %r0, -7, 2;", "b32", "%r0", (u32)-1},
    {"min.s32 %r0, -1, 1;", "b32", "%r0", (u32)-1},
    {"max.u32 %r0, -1, 1;", "b32", "%r0", (u32)-1},
    {"abs.s32 %r0, -5;", "b32", "%r0", 5},
    {"neg.s32 %r0, 5;", "b32", "%r0", (u32)-5},
    {"and.b32 %r0, 12, 10;", "b32", "%r0", 8},
    {"or.b32 %r0, 12, 10;", "b32", "%r0", 14},
    {"xor.b32 %r0, 12, 10;", "b32", "%r0", 6},
    {"not.b32 %r0, 0;", "b32", "%r0", 0xffffffff},
    {"shl.b32 %r0, 1, 32;", "b32", "%r0", 0},
    {"shl.b32 %r0, 1, 31;", "b32", "%r0", 0x80000000},
    {"shr.s32 %r0, -8, 40;", "b32", "%r0", 0xffffffff},
    {"shr.u32 %r0, -8, 28;", "b32", "%r0", 15},
    {"bfi.b32 %r0, 5, 255, 4, 3;", "b32", "%r0", 0xdf},
    {"bfi.b64 %rd0, 1, 0, 63, 5;", "b64", "%rd0", 1ull << 63},
    {"bfind.shiftamt.u32 %r0, 1;", "b32", "%r0", 31},
    {"bfind.shiftamt.u32 %r0, 0;", "b32", "%r0", 0xffffffff},
    {"brev.b32 %r0, 1;", "b32", "%r0", 0x80000000},
    {"prmt.b32 %r0, 0x33221180, 0x77665544, 0x8534;", "b32", "%r0", 0xff553344},
    {"setp.lt.s32 %p0, -1, 0; selp.b32 %r0, 3, 4, %p0;", "b32", "%r0", 3},
    {"setp.lt.u32 %p0, -1, 0; selp.b32 %r0, 3, 4, %p0;", "b32", "%r0", 4},
    {"setp.ne.s16 %p0, 1, 65537; selp.b32 %r0, 3, 4, %p0;", "b32", "%r0", 4},
    {"setp.eq.f32 %p0, " F32_NAN ", " F32_1 "; selp.b32 %r0, 3, 4, %p0;", "b32", "%r0", 4},
    {"setp.ne.f32 %p0, " F32_NAN ", " F32_1 "; selp.b32 %r0, 3, 4, %p0;", "b32", "%r0", 4},
    {"setp.neu.f32 %p0, " F32_NAN ", " F32_1 "; selp.b32 %r0, 3, 4, %p0;", "b32", "%r0", 3},
    {"setp.gtu.f32 %p0, " F32_1 ", " F32_1 "; selp.b32 %r0, 3, 4, %p0;", "b32", "%r0", 4},
    {"setp.nan.f32 %p0, " F32_1 ", " F32_NAN "; selp.b32 %r0, 3, 4, %p0;", "b32", "%r0", 3},
    {"mov.pred %p0, -1; not.pred %p1, %p0; xor.pred %p2, %p0, %p1; selp.b32 %r0, 3, 4, %p2;", "b32", "%r0", 3},
    {"mov.pred %p0, -1; mov.pred %p1, 0; and.pred %p2, %p0, %p1; or.pred %p2, %p2, %p0; selp.b32 %r0, 3, 4, %p2;",
     "b32", "%r0", 3},
    {"mov.u32 %r0, 1; mov.pred %p0, 0; @%p0 mov.u32 %r0, 2; @!%p0 add.s32 %r0, %r0, 4;", "b32", "%r0", 5},
    // Floats. 1 + 2^-24 lies in the middle between two floats.
    {"add.f32 %f0, " F32_1 ", 0f33800000;", "f32", "%f0", 0x3f800000},
    {"add.rp.f32 %f0, " F32_1 ", 0f33800000;", "f32", "%f0", 0x3f800001},
    {"sub.rm.f32 %f0, " F32_1 ", 0f33000000;", "f32", "%f0", 0x3f7fffff},
    {"fma.rm.f32 %f0, 0fBF800000, " F32_1 ", 0fB3800000;", "f32", "%f0", 0xbf800001},
    {"fma.rz.f32 %f0, 0fBF800000, " F32_1 ", 0fB3800000;", "f32", "%f0", 0xbf800000},
    {"fma.rn.f32 %f0, 0f3F800001, 0f3F800001, 0fBF800002;", "f32", "%f0", 0x28800000}, // exact: 2^-46
    {"mul.f32 %f0, 0f00000001, 0f40000000;", "f32", "%f0", 2},                         // denormals are kept
    {"div.rn.f32 %f0, " F32_1 ", 0f40400000;", "f32", "%f0", 0x3eaaaaab},
    {"rcp.rn.f32 %f0, 0f40800000;", "f32", "%f0", 0x3e800000},
    {"sqrt.rn.f32 %f0, 0f40800000;", "f32", "%f0", 0x40000000},
    {"sqrt.rn.f32 %f0, 0fBF800000;", "f32", "%f0", 0x7fffffff},
    {"ex2.approx.ftz.f32 %f0, 0f40400000;", "f32", "%f0", 0x41000000},
    {"ex2.approx.ftz.f32 %f0, 0fC3020000;", "f32", "%f0", 0}, // 2^-130 is flushed
    {"lg2.approx.f32 %f0, 0f41000000;", "f32", "%f0", 0x40400000},
    {"min.f32 %f0, " F32_NAN ", " F32_1 ";", "f32", "%f0", 0x3f800000},
    {"max.f32 %f0, 0f80000000, 0f00000000;", "f32", "%f0", 0},
    {"neg.f32 %f0, " F32_1 ";", "f32", "%f0", 0xbf800000},
    {"abs.f32 %f0, 0fBF800000;", "f32", "%f0", 0x3f800000},
    {"mov.f32 %f0, " F32_1 "; selp.f32 %f0, %f0, " F32_NAN ", 1;", "f32", "%f0", 0x3f800000},
    {"add.f64 %fd0, 0d3FF0000000000000, 0d3FF0000000000000;", "f64", "%fd0", 0x4000000000000000},
    {"fma.rn.f64 %fd0, 0d4000000000000000, 0d4000000000000000, 0dC010000000000000;", "f64", "%fd0", 0},
    {"div.rn.f64 %fd0, 0d3FF0000000000000, 0d4000000000000000; sqrt.rn.f64 %fd1, 0d4010000000000000; mul.f64 %fd0, "
     "%fd0, %fd1;",
     "f64", "%fd0", 0x3ff0000000000000},
    {"rcp.rn.f64 %fd0, 0d4000000000000000; neg.f64 %fd0, %fd0; abs.f64 %fd0, %fd0; max.f64 %fd0, %fd0, "
     "0d0000000000000000; "
     "min.f64 %fd0, %fd0, 0d4000000000000000; sub.f64 %fd0, %fd0, 0d3FE0000000000000;",
     "f64", "%fd0", 0},
    // Conversions.
    {"cvt.s64.s32 %rd0, -1;", "b64", "%rd0", ~0ull},
    {"cvt.u64.u32 %rd0, -1;", "b64", "%rd0", 0xffffffff},
    {"cvt.u16.u32 %rs0, 65538; cvt.u32.u16 %r0, %rs0;", "b32", "%r0", 2},
    {"cvt.rn.bf16.f32 %rs0, 0f3F808000;", "b16", "%rs0", 0x3f80}, // in the middle: to even
    {"cvt.rn.bf16.f32 %rs0, 0f3F818000;", "b16", "%rs0", 0x3f82},
    {"cvt.rn.bf16.f32 %rs0, 0fFFFFFFFF;", "b16", "%rs0", 0x7fff},
    {"cvt.rn.bf16x2.f32 %r0, 0f40000000, " F32_1 ";", "b32", "%r0", 0x40003f80},
    {"cvt.rn.f32.s32 %f0, 16777217;", "f32", "%f0", 0x4b800000},
    {"cvt.rn.f32.u32 %f0, -1;", "f32", "%f0", 0x4f800000},
    {"cvt.rzi.s32.f32 %r0, 0fC0200000;", "b32", "%r0", (u32)-2},
    {"cvt.rzi.s32.f32 %r0, 0f4F000000;", "b32", "%r0", 0x7fffffff},
    {"cvt.rzi.s32.f32 %r0, " F32_NAN ";", "b32", "%r0", 0},
    {"cvt.rni.f32.f32 %f0, 0f40200000;", "f32", "%f0", 0x40000000},
    {"cvt.sat.f32.f32 %f0, 0f40200000;", "f32", "%f0", 0x3f800000},
    {"cvt.f64.f32 %fd0, " F32_1 ";", "f64", "%fd0", 0x3ff0000000000000},
    {"cvt.rn.f32.f64 %f0, 0d3FF0000010000000;", "f32", "%f0", 0x3f800000},
    {"cvt.rn.f64.u64 %fd0, 2;", "f64", "%fd0", 0x4000000000000000},
    // Memory: out holds 64-bit numbers 0, 1, 2, ...
    {"ld.global.v2.u32 {%r0, %r1}, [%rd8+8];", "b32", "%r0", 1},
    {"cvta.to.global.u64 %rd0, %rd8; ld.global.v4.u32 {%r0, %r1, %r2, %r3}, [%rd0+32];", "b32", "%r2", 5},
    {"mov.u32 %r1, -1; st.global.u8 [%rd8+16], %r1; ld.global.s8 %rs0, [%rd8+16]; cvt.s32.s16 %r0, %rs0;", "b32", "%r0",
     ~0u},
    {"atom.global.add.u32 %r0, [%rd8+64], 1; ld.acquire.gpu.global.u32 %r0, [%rd8+64];", "b32", "%r0", 8 + 32},
    {"ld.param.u32 %r0, [out+4]; shr.u64 %rd0, %rd8, 32; cvt.u32.u64 %r1, %rd0; sub.s32 %r0, %r0, %r1;", "b32", "%r0",
     0},
    // Between lanes; lane 0 stores.
    {"shfl.sync.bfly.b32 %r0|%p0, %r29, 5, 31, -1;", "b32", "%r0", 5},
    {"shfl.sync.idx.b32 %r0, %r29, 9, 31, -1; bar.warp.sync -1;", "b32", "%r0", 9},
    {"setp.gt.u32 %p0, %r29, 29; vote.sync.ballot.b32 %r0, %p0, -1;", "b32", "%r0", 0xc0000000},
    {"setp.eq.u32 %p0, %r29, 3; bar.red.or.pred %p1, 0, %p0; selp.b32 %r0, 3, 4, %p1;", "b32", "%r0", 3},
    {"mov.u32 %r0, 0; mov.u32 %r1, %r29;\n$again: add.s32 %r0, %r0, 1; add.s32 %r1, %r1, -1; setp.gt.s32 %p0, %r1, 0; "
     "@%p0 bra $again;\n"
     "shfl.sync.idx.b32 %r0, %r0, 31, 31, -1;",
     "b32", "%r0", 31},
};

static void test_values(void **) {
    std::set<Op> executed;
    for (const Value &v : values) {
        const std::string text = kernel_around(std::string(v.body) + "\nsetp.eq.u32 %p8, %r29, 0;\n@%p8 st.global." +
                                               v.type + " [%rd8], " + v.result + ";");
        const Run run = run_text(text, WARP);
        const size_t bytes = strstr("b64 f64", v.type) ? 8 : strcmp(v.type, "b16") == 0 ? 2 : 4;
        u64 got = 0;
        memcpy(&got, run.out, bytes);
        printf("    %-60.60s %llx\n", v.body, (unsigned long long)got);
        assert_string_equal(run.fault.c_str(), "");
        assert_string_equal(run.findings.c_str(), "");
        assert_int_equal(got, v.expected);
        const auto module = parse_module(text);
        for (const Instruction &i : module->code) { executed.insert(i.op); }
    }
    // test_matrices and test_copies have the rest.
    for (Op op : {Op::MMA, Op::LDMATRIX, Op::CP_ASYNC, Op::CP_COMMIT, Op::CP_WAIT}) { executed.insert(op); }
    printf("    %zu of %d operations\n", executed.size(), (int)Op::MMA + 1);
    assert_int_equal(executed.size(), (int)Op::MMA + 1);
}

// Rows of 8 bf16 in shared memory, row r of matrix m being 8 m + r everywhere, go through ldmatrix (as they are or
// transposed) and mma with C = 1: D = A B + 1, with A and B as the fragments' layouts say.
#define FRAGMENTS                                                                                                      \
    ".shared .align 16 .b8 tile[512];\n"                                                                               \
    "cvt.rn.f32.u32 %f0, %r29;\ncvt.rn.bf16x2.f32 %r0, %f0, %f0;\nshl.b32 %r1, %r29, 4;\nmov.u32 %r2, tile;\n"         \
    "add.s32 %r2, %r2, %r1;\nst.shared.v4.b32 [%r2], {%r0, %r0, %r0, %r0};\nbar.sync 0;\n"                             \
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r3, %r4, %r5, %r6}, [%r2];\n"                                          \
    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r7, %r8, %r9, %r10}, [%r2];\n"
#define PRODUCT                                                                                                        \
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r3, %r4, %r5, %r6}, {%r7, %r8}, "     \
    "{%f5, %f5, %f5, %f5};\n"

static void test_matrices(void **) {
    const Run run = run_text(kernel_around("mov.f32 %f5, " F32_1 ";\n" FRAGMENTS PRODUCT
                                           "mul.wide.u32 %rd0, %r29, 16;\nadd.s64 %rd0, %rd8, %rd0;\n"
                                           "st.global.v4.f32 [%rd0], {%f1, %f2, %f3, %f4};"),
                             WARP);
    assert_string_equal(run.fault.c_str(), "");
    assert_string_equal(run.findings.c_str(), "");
    // A: row r of the upper half is r for k < 8 and 16 + r beyond, of the lower half 8 + r and 24 + r. B, transposed:
    // k.
    const float *d = (const float *)run.out;
    for (int lane = 0; lane < WARP; lane++) {
        for (int n = 0; n < 4; n++) {
            const int row = lane / 4 + 8 * (n / 2);
            float expected = 1;
            for (int k = 0; k < 16; k++) { expected += (float)((row + (k < 8 ? 0 : 16)) * k); }
            if (n == 0 && lane % 4 == 0) { printf("    row %d: %g\n", row, d[4 * lane + n]); }
            assert_true(d[4 * lane + n] == expected);
        }
    }
}

// Eight bytes of sixteen are read, the rest is zero; two groups, of which the first lands first.
#define TWO_COPIES                                                                                                     \
    ".shared .align 16 .b8 a[16];\n.shared .align 16 .b8 b[16];\nmov.u32 %r0, a;\nmov.u32 %r1, b;\nmov.u32 %r2, 8;\n"  \
    "cp.async.cg.shared.global [%r0], [%rd8+16], 16, %r2;\ncp.async.commit_group;\n"                                   \
    "cp.async.cg.shared.global [%r1], [%rd8+32], 16;\ncp.async.commit_group;\n"

static void test_copies(void **) {
    const Run run =
        run_text(kernel_around(TWO_COPIES "cp.async.wait_group 1;\nld.shared.v2.b64 {%rd0, %rd1}, [%r0];\n"
                                          "cp.async.wait_group 0;\nld.shared.b64 %rd2, [%r1];\n"
                                          "st.global.v2.b64 [%rd8], {%rd0, %rd1};\nst.global.b64 [%rd8+16], %rd2;"),
                 1);
    printf("    %llu %llu %llu\n", (unsigned long long)run.out[0], (unsigned long long)run.out[1],
           (unsigned long long)run.out[2]);
    assert_string_equal((run.fault + run.findings).c_str(), "");
    assert_int_equal(run.out[0], 2);
    assert_int_equal(run.out[1], 0);
    assert_int_equal(run.out[2], 4);
}

// ---- Faults ---------------------------------------------------------------------------------------------------------

struct Fault {
    const char *body;
    u32 threads;
    const char *expected;
};
#define STORE_OWN                                                                                                      \
    ".shared .align 16 .b8 s[256];\nshl.b32 %r0, %r29, 2;\nmov.u32 %r1, s;\nadd.s32 %r0, %r0, %r1;\nst.shared.b32 "    \
    "[%r0], %r29;\n"
// One lane writes what all lanes of its warp have read.
#define ALL_READ_ONE_WRITES(between, lane)                                                                             \
    "bar.sync 0;\nld.shared.b32 %r2, [s];\n" between "setp.eq.u32 %p0, %r29, " lane ";\n@%p0 st.shared.b32 [s], %r2;"
#define LOWER_HALF "setp.lt.u32 %p0, %r29, 16;\n"
static const Fault faults[] = {
    {"ld.global.b32 %r0, [%rd8+8192];", 1, "global read out of bounds: 0x"},
    {"st.global.b32 [%rd8+8192], %r0;", 1, "4 bytes past the end of a buffer of 8192 bytes"},
    {"ld.global.b32 %r0, [%rd8+-4];", 1, "global read out of bounds"},
    {"ld.global.v2.b32 {%r0, %r1}, [%rd8+4];", 1, "misaligned access of 8 bytes"},
    {"ld.param.b64 %rd0, [out+8];", 1, "kernel parameter access out of bounds"},
    {STORE_OWN "ld.shared.b32 %r2, [s+256];", 32, "shared access out of bounds: offset 0x100, 4 bytes"},
    {STORE_OWN "ld.shared.b32 %r2, [s+128];", 32, "read of shared memory that nobody wrote (offset 128)"},
    {STORE_OWN "ld.shared.b32 %r2, [s+4];", 32,
     "race: shared offset 4 read here and written without a barrier between by thread 1"},
    {STORE_OWN "bar.sync 0;\nld.shared.b32 %r2, [s+4];\nst.shared.b32 [%r0], %r2;", 64,
     "race: shared offset 4 written here and read"},
    {STORE_OWN ALL_READ_ONE_WRITES("", "0"), 32,
     "race: shared offset 0 written here and read without a barrier between by thread 31"},
    {STORE_OWN ALL_READ_ONE_WRITES("", "31"), 32,
     "race: shared offset 0 written here and read without a barrier between by thread 0"},
    {"shfl.sync.idx.b32 %r0, %r29, 20, 31, -1;", 16, "shfl.sync reads lane 20, which does not take part"},
    {"shfl.sync.idx.b32 %r0, %r29, 0, 31, 2;", 32, "a lane that its own member mask does not name"},
    {"mov.f32 %f5, " F32_1 ";\n" FRAGMENTS LOWER_HALF "@!%p0 bra $end;\n" PRODUCT "$end:", 32,
     "matrix instruction without all 32 lanes"},
    {LOWER_HALF "@%p0 bra $half;\nbar.sync 0;\nbra $end;\n$half: bar.warp.sync -1;\n$end:", 32,
     "deadlock in block (0,0,0):\n  warp 0 lanes"},
    {"setp.gt.u32 %p0, %r29, 31;\n@%p0 ret;\nbar.sync 0;", 64,
     "barrier of the whole block although 32 of its threads have ended"},
    {"$again: ld.global.b32 %r0, [%rd8];\nsetp.eq.s32 %p0, %r0, 0;\n@%p0 bra $again;", 1,
     "no end after 100000 warp instructions"},
    {TWO_COPIES "cp.async.wait_group 1;", 1, "thread ends with cp.async copies it never waited for"},
    {TWO_COPIES "cp.async.wait_group 1;\nld.shared.b32 %r4, [%r1];\ncp.async.wait_group 0;", 1,
     "shared offset 80 read while a cp.async of thread 0 to it is under way"},
    {"cp.async.cg.shared.global [%r0], [%rd8+8], 16;", 1, "misaligned source of cp.async"},
};

static void test_faults(void **) {
    for (const Fault &fault : faults) {
        Options options;
        options.limit = 100000;
        const Run run = run_text(kernel_around(fault.body), fault.threads, options);
        const std::string said = run.fault + run.findings;
        printf("    %.110s\n", said.substr(0, said.find('\n')).c_str());
        assert_non_null(strstr(said.c_str(), fault.expected));
    }
}

static void test_ordered(void **) {
    for (const char *body :
         {ALL_READ_ONE_WRITES("bar.warp.sync -1;\n", "31"), ALL_READ_ONE_WRITES("bar.sync 0;\n", "0")}) {
        const Run run = run_text(kernel_around(STORE_OWN + std::string(body)), WARP);
        assert_string_equal((run.fault + run.findings).c_str(), "");
    }
}

// Text that is not understood is refused when it is loaded, with its line.
static void test_refused(void **) {
    const Fault refused[] = {
        {"sin.approx.f32 %f0, %f1;", 1, "PTX line 14: the simulator does not know sin.approx.f32"},
        {"add.cc.u32 %r0, %r1, %r2;", 1, "does not know add.cc.u32"},
        {"mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f0}, {%r0}, {%r1}, {%f0};", 1,
         "does not know mma.sync.aligned.m16n8k8"},
        {"mov.u32 %r0, %r99;", 1, "register %r99"},
        {"bar.sync 1;", 1, "a barrier other than 0"},
        {"bar.sync 0, 64;", 1, "a barrier of some threads"},
        {"bra $nowhere;", 1, "unknown label"},
        {".local .b8 x[4];", 1, "a kernel with .local"},
        {"cvt.rn.bf16.f64 %rs0, 0d3FF0000000000000;", 1, "does not know this form of cvt.rn.bf16.f64"},
    };
    for (const Fault &fault : refused) {
        const Run run = run_text(kernel_around(fault.body), fault.threads);
        printf("    %.110s\n", run.fault.c_str());
        assert_non_null(strstr(run.fault.c_str(), fault.expected));
    }
}

// The lanes of a warp that spin on another lane of it let that one go on.
static void test_spinning_lanes(void **) {
    const Run run = run_text(
        kernel_around("setp.eq.u32 %p0, %r29, 5;\n@%p0 bra $set;\n"
                      "$again: ld.acquire.gpu.global.u32 %r0, [%rd8];\nsetp.eq.s32 %p1, %r0, 0;\n@%p1 bra $again;\n"
                      "bra $end;\n$set: st.release.gpu.global.u32 [%rd8], 1;\n$end:"),
        WARP);
    assert_string_equal((run.fault + run.findings).c_str(), "");
    assert_int_equal((u32)run.out[0], 1);
}

// Static variables lie 16 aligned with gaps, dynamic memory after them; what a shared address is shows in its bank.
static void test_shared_layout(void **) {
    const auto module = parse_module(
        kernel_around(".shared .align 4 .b8 a[12];\n.shared .align 4 .f32 b;\nmov.u32 %r0, b;\nmov.u32 %r1, d;",
                      ".extern .shared .align 16 .b8 d[];\n.shared .align 4 .b8 m[20];\n"));
    const Kernel &k = module->kernels.at("k");
    printf("    %u bytes, dynamic from %u\n", k.static_shared_bytes(), k.dynamic_offset);
    assert_int_equal(k.static_shared_bytes(), 20 + 12 + 4);
    assert_int_equal(k.shared[1].offset % 16, 0);
    assert_int_equal(k.dynamic_offset % 128, 0);
    assert_true(k.dynamic_offset >= k.shared[2].offset + 4);
    assert_int_equal(module->code[3].operands[1].value, k.dynamic_offset);
}

int main() {
    const CMUnitTest tests[] = {
        cmocka_unit_test(test_values),         cmocka_unit_test(test_matrices),      cmocka_unit_test(test_copies),
        cmocka_unit_test(test_faults),         cmocka_unit_test(test_ordered),       cmocka_unit_test(test_refused),
        cmocka_unit_test(test_spinning_lanes), cmocka_unit_test(test_shared_layout),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
