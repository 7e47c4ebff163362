// What the counts say: the least time of each unit of an A100, as JSON and as a table.
#include "profile.h"
#include <algorithm>
#include <cstdarg>

namespace sim {

// ---- Least times ----------------------------------------------------------------------------------------------------

namespace {

// A100 SXM, 40 GB. The rates are the data sheet's (dense bf16 with fp32 sums), that of L2 is of NVIDIA's white paper on
// its architecture; 64 bytes per clock from L2 to one SM are an assumption.
const char *const CARD = "A100 SXM 40 GB, 108 SMs, 1.41 GHz, 1555 GB/s";
const double SMS = 108, CLOCKS = 1410 /* per us */, DRAM_RATE = 1555e3 /* bytes per us */;
const double L2_PER_CLOCK = 5120, L2_PER_CLOCK_AND_SM = 64, SCHEDULERS = 4, SFU_PER_SCHEDULER = 4;
const double FP32_RATE = 19.5e6, FP64_RATE = 9.7e6, TENSOR_RATE = 312e6; // FLOPs per us

const char *const UNIT_NAMES[UNITS] = {"DRAM", "L2", "L1/smem", "issue", "tensor", "fp32", "fp64", "SFU"};
const char *const DIRECTION_NAMES[DIRECTIONS] = {"load", "store", "atomic"};
const char *const NOTE =
    "Least times, from counts of PTX instructions and accesses (machine code differs): no latency, "
    "occupancy, launch cost or tail;\nL2 cold at each launch, L1 keeps all reuse inside a block and "
    "none between blocks.";

double ratio(double a, double b) { return b ? a / b : 0; }

std::string format(const char *form, ...) __attribute__((format(printf, 1, 2)));
std::string format(const char *form, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, form);
    vsnprintf(text, sizeof text, form, arguments);
    va_end(arguments);
    return text;
}

} // namespace

Unit Bound::slowest() const { return (Unit)(std::max_element(us, us + UNITS) - us); }
Unit KernelCounts::by() const { return (Unit)(std::max_element(slowest, slowest + UNITS) - slowest); }

// Of one launch. Fewer blocks than SMs leave SMs idle, and fewer warps than schedulers leave schedulers idle. A
// warp's multiply-add is 64 FLOPs, and idle lanes cost as much as busy ones.
Bound bound_of(const Counters &c) {
    const double sms = std::min((double)c.blocks, SMS), schedulers = std::min(sms * SCHEDULERS, (double)c.warps);
    const double part = schedulers / (SMS * SCHEDULERS);
    double l2 = 0, wavefronts = 0;
    for (int d = 0; d < DIRECTIONS; d++) {
        l2 += 32.0 * (double)c.global[d].l2_sectors;
        wavefronts += (double)(c.shared[d].wavefronts + c.global[d].lines);
    }
    Bound bound;
    bound.us[DRAM] = (double)c.dram_bytes() / DRAM_RATE;
    bound.us[L2] = std::max(l2 / (L2_PER_CLOCK * CLOCKS), l2 / (sms * L2_PER_CLOCK_AND_SM * CLOCKS));
    bound.us[L1] = wavefronts / (sms * CLOCKS);
    bound.us[ISSUE] = (double)(c.instructions - c.free) / (schedulers * CLOCKS);
    bound.us[TENSOR] = (double)c.mma / (TENSOR_RATE * part);
    bound.us[FP32] = 64.0 * (double)c.fp32_issues / (FP32_RATE * part);
    bound.us[FP64] = 64.0 * (double)c.fp64_issues / (FP64_RATE * part);
    bound.us[SFU] = (double)c.special / (schedulers * SFU_PER_SCHEDULER * CLOCKS);
    return bound;
}

// ---- JSON -----------------------------------------------------------------------------------------------------------

namespace {

// Writes "key": value with the commas; in a list, key is NULL.
class Json {
  public:
    void number(const char *key, u64 value) { put(key, std::to_string(value)); }
    void number(const char *key, double value) { put(key, format("%.6g", value)); }
    void string(const char *key, const std::string &value) {
        std::string quoted = "\"";
        for (char c : value) {
            if (c == '"' || c == '\\') { quoted += '\\'; }
            quoted += (u8)c < ' ' ? ' ' : c;
        }
        put(key, quoted + '"');
    }
    void open(const char *key, char bracket) {
        put(key, std::string(1, bracket));
        first = true;
    }
    void close(char bracket) {
        text += bracket;
        first = false;
    }
    std::string text;

  private:
    void put(const char *key, const std::string &value) {
        if (!first) { text += ", "; }
        first = false;
        text += key ? '"' + std::string(key) + "\": " + value : value;
    }
    bool first = true;
};

void write_global(Json *json, const Counters &c) {
    json->open("global", '{');
    for (int d = 0; d < DIRECTIONS; d++) {
        const GlobalCounts &g = c.global[d];
        json->open(DIRECTION_NAMES[d], '{');
        json->number("requests", g.requests);
        json->number("bytes", g.bytes);
        json->number("sectors", g.sectors);
        json->number("lines", g.lines);
        json->number("l2_sectors", g.l2_sectors);
        json->number("efficiency", ratio((double)g.used_bytes, 32.0 * (double)g.sectors));
        json->close('}');
    }
    json->number("dram_bytes", c.dram_bytes());
    json->number("reread", ratio((double)c.global[LOAD].sectors, (double)c.unique_reads));
    json->close('}');
}

SharedCounts shared_sum(const Counters &c) {
    SharedCounts sum;
    for (const SharedCounts &s : c.shared) {
        sum.requests += s.requests;
        sum.wavefronts += s.wavefronts;
        sum.ideal += s.ideal;
    }
    return sum;
}

void write_counters(Json *json, const Counters &c) {
    json->number("launches", c.launches);
    json->number("blocks", c.blocks);
    json->number("threads", c.threads);
    json->number("warp_insns", c.instructions);
    json->number("issue_slots", c.instructions - c.free);
    json->number("active_lanes", ratio((double)c.lanes, (double)c.instructions));
    json->open("flops", '{');
    json->number("fp32", c.fp32);
    json->number("fp64", c.fp64);
    if (c.mma) { json->number("mma_bf16", c.mma); }
    json->close('}');
    json->number("special_lanes", c.special);
    write_global(json, c);
    const SharedCounts s = shared_sum(c);
    json->open("shared", '{');
    json->number("requests", s.requests);
    json->number("wavefronts", s.wavefronts);
    json->number("conflict", ratio((double)s.wavefronts, (double)s.ideal));
    json->close('}');
}

void write_line(Json *json, const LineCounts &line) {
    json->open(nullptr, '{');
    json->number("line", (u64)line.line);
    json->string("text", line.text);
    if (!line.source.empty()) { json->string("source", line.source); }
    json->number("requests", line.requests);
    if (line.sectors) {
        json->number("sectors", line.sectors);
        json->number("sectors_ideal", line.ideal_sectors);
    }
    if (line.wavefronts) {
        json->number("wavefronts", line.wavefronts);
        json->number("wavefronts_ideal", line.ideal_wavefronts);
    }
    json->close('}');
}

void write_kernel(Json *json, const KernelCounts &k) {
    json->open(nullptr, '{');
    json->string("name", k.shown);
    json->string("mangled", k.mangled);
    json->open("block", '[');
    for (int axis = 0; axis < 3; axis++) { json->number(nullptr, (u64)k.block[axis]); }
    json->close(']');
    json->number("smem_dynamic", (u64)k.dynamic_shared);
    write_counters(json, k.total);
    json->open("bound", '{');
    json->open("A100", '{');
    json->number("us", k.us);
    json->string("by", UNIT_NAMES[k.by()]);
    for (int n = 0; n < UNITS; n++) { json->number(UNIT_NAMES[n], k.bound.us[n]); }
    json->close('}');
    json->close('}');
    json->open("lines", '[');
    for (const auto &[index, line] : k.lines) { write_line(json, line); }
    json->close(']');
    json->close('}');
}

} // namespace

std::string profile_json() {
    Json json;
    json.open(nullptr, '{');
    json.string("note", NOTE);
    json.open("kernels", '[');
    for (const auto &[name, kernel] : profiled()) { write_kernel(&json, kernel); }
    json.close(']');
    json.close('}');
    return json.text + "\n";
}

// ---- Table ----------------------------------------------------------------------------------------------------------

namespace {

// 1234567 -> "1235k"
std::string short_number(double value) {
    static const char *const units[] = {"", "k", "M", "G", "T"};
    int n = 0;
    for (; value >= 9999.5 && n < 4; n++) { value /= 1000; }
    return format(n == 0 || value >= 100 ? "%.0f%s" : value >= 10 ? "%.1f%s" : "%.2f%s", value, units[n]);
}
std::string short_or_dash(u64 value) { return value ? short_number((double)value) : "-"; }
std::string ratio_or_dash(const char *form, double a, double b) {
    char text[32];
    snprintf(text, sizeof text, form, ratio(a, b));
    return ratio(a, b) ? text : "-";
}

const char *const TITLES[] = {"kernel", "launch", "blk x thr", "winsn", "lanes",  "DRAM B", "ld", "st",
                              "wid",    "reread", "smem",      "mma F", "fp32 F", "bound",  "us", "%"};
const int WIDTHS[] = {-24, 6, 12, 6, 5, 6, 5, 5, 5, 6, 5, 7, 7, -7, 9, 4};
enum { COLUMNS = sizeof WIDTHS / sizeof *WIDTHS };

// all: the sum of the times of all kernels. is_sum: the last row.
std::string table_row(const KernelCounts &k, double all, bool is_sum) {
    const Counters &c = k.total;
    const GlobalCounts &in = c.global[LOAD], &out = c.global[STORE];
    const SharedCounts s = shared_sum(c);
    const std::string blocks = short_number(ratio((double)c.blocks, (double)c.launches));
    const std::string cells[COLUMNS] = {
        k.shown.substr(0, 24),
        short_number((double)c.launches),
        is_sum ? "" : blocks + "x" + std::to_string(k.block.count()),
        short_number((double)c.instructions),
        format("%.1f", ratio((double)c.lanes, (double)c.instructions)),
        short_number((double)c.dram_bytes()),
        ratio_or_dash("%.2f", (double)in.used_bytes, 32.0 * (double)in.sectors),
        ratio_or_dash("%.2f", (double)out.used_bytes, 32.0 * (double)out.sectors),
        ratio_or_dash("%.1f", (double)(in.bytes + out.bytes), (double)(in.lanes + out.lanes)),
        ratio_or_dash("%.1f", (double)in.sectors, (double)c.unique_reads),
        ratio_or_dash("%.2f", (double)s.wavefronts, (double)s.ideal),
        short_or_dash(c.mma),
        short_or_dash(c.fp32),
        is_sum ? "" : UNIT_NAMES[k.by()],
        format("%.2f", k.us),
        format("%.0f", 100 * ratio(k.us, all))};
    std::string row;
    for (int n = 0; n < COLUMNS; n++) { row += format(n ? " %*s" : "%*s", WIDTHS[n], cells[n].c_str()); }
    return row + "\n";
}

double waste_of(const LineCounts &line) {
    return (double)(line.sectors - line.ideal_sectors) / 4 + (double)(line.wavefronts - line.ideal_wavefronts);
}

std::string wasteful_row(const KernelCounts &k, const LineCounts &line) {
    const std::string at = line.source.empty() ? "PTX line " + std::to_string(line.line) : line.source;
    std::string what;
    if (line.sectors > line.ideal_sectors) {
        what += "sectors " + short_number((double)line.sectors) + "/" + short_number((double)line.ideal_sectors) + " ";
    }
    if (line.wavefronts > line.ideal_wavefronts) {
        what +=
            "wavefronts " + short_number((double)line.wavefronts) + "/" + short_number((double)line.ideal_wavefronts);
    }
    return format("  %-24.24s %-20.20s %-34s %.56s\n", k.shown.c_str(), at.c_str(), what.c_str(), line.text.c_str());
}

// The instructions that move most for nothing, by at least a tenth.
std::string most_wasteful() {
    std::vector<std::pair<const KernelCounts *, const LineCounts *>> found;
    for (const auto &[name, k] : profiled()) {
        for (const auto &[index, line] : k.lines) {
            const double needed = (double)line.ideal_sectors / 4 + (double)line.ideal_wavefronts;
            if (waste_of(line) > 0.1 * needed) { found.push_back({&k, &line}); }
        }
    }
    std::stable_sort(found.begin(), found.end(),
                     [](const auto &a, const auto &b) { return waste_of(*a.second) > waste_of(*b.second); });
    std::string text = found.empty() ? "" : "most wasteful accesses (sectors and wavefronts: got/needed)\n";
    for (size_t n = 0; n < found.size() && n < 8; n++) { text += wasteful_row(*found[n].first, *found[n].second); }
    return text;
}

} // namespace

std::string profile_table() {
    std::vector<const KernelCounts *> rows;
    KernelCounts sum;
    sum.shown = "total";
    for (const auto &[name, kernel] : profiled()) {
        rows.push_back(&kernel);
        sum.total.add(kernel.total);
        sum.us += kernel.us;
    }
    std::stable_sort(rows.begin(), rows.end(),
                     [](const KernelCounts *a, const KernelCounts *b) { return a->us > b->us; });
    std::string text = format("profile for %s\n%s\n", CARD, NOTE);
    for (int n = 0; n < COLUMNS; n++) { text += format(n ? " %*s" : "%*s", WIDTHS[n], TITLES[n]); }
    text += "\n";
    for (const KernelCounts *row : rows) { text += table_row(*row, sum.us, false); }
    return text + table_row(sum, sum.us, true) + most_wasteful();
}

} // namespace sim
