#include "scratch.h"
#include "model/config.h"

static const char sd2_unet[] =
    "{\"_class_name\": \"UNet2DConditionModel\", \"act_fn\": \"silu\", \"attention_head_dim\": [5, 10, 20, 20],"
    " \"block_out_channels\": [320, 640, 1280, 1280], \"center_input_sample\": false, \"cross_attention_dim\": 1024,"
    " \"down_block_types\": [\"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\","
    " \"DownBlock2D\"], \"downsample_padding\": 1, \"dual_cross_attention\": false, \"flip_sin_to_cos\": true,"
    " \"freq_shift\": 0, \"in_channels\": 4, \"layers_per_block\": 2, \"mid_block_scale_factor\": 1,"
    " \"norm_eps\": 1e-05, \"norm_num_groups\": 32, \"only_cross_attention\": false, \"out_channels\": 4,"
    " \"sample_size\": 96, \"up_block_types\": [\"UpBlock2D\", \"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\","
    " \"CrossAttnUpBlock2D\"], \"use_linear_projection\": true}";

static const char sd2_vae[] =
    "{\"_class_name\": \"AutoencoderKL\", \"act_fn\": \"silu\", \"block_out_channels\": [128, 256, 512, 512],"
    " \"down_block_types\": [\"DownEncoderBlock2D\", \"DownEncoderBlock2D\", \"DownEncoderBlock2D\","
    " \"DownEncoderBlock2D\"], \"in_channels\": 3, \"latent_channels\": 4, \"layers_per_block\": 2,"
    " \"norm_num_groups\": 32, \"out_channels\": 3, \"sample_size\": 768, \"scaling_factor\": 0.18215,"
    " \"up_block_types\": [\"UpDecoderBlock2D\", \"UpDecoderBlock2D\", \"UpDecoderBlock2D\", \"UpDecoderBlock2D\"]}";

static const char sd2_text[] =
    "{\"architectures\": [\"CLIPTextModel\"], \"attention_dropout\": 0.0, \"bos_token_id\": 0, \"dropout\": 0.0,"
    " \"eos_token_id\": 2, \"hidden_act\": \"gelu\", \"hidden_size\": 1024, \"intermediate_size\": 4096,"
    " \"layer_norm_eps\": 1e-05, \"max_position_embeddings\": 77, \"model_type\": \"clip_text_model\","
    " \"num_attention_heads\": 16, \"num_hidden_layers\": 23, \"vocab_size\": 49408}";

static const char sd2_scheduler[] =
    "{\"_class_name\": \"DDIMScheduler\", \"beta_end\": 0.012, \"beta_schedule\": \"scaled_linear\","
    " \"beta_start\": 0.00085, \"clip_sample\": false, \"num_train_timesteps\": 1000,"
    " \"prediction_type\": \"v_prediction\", \"set_alpha_to_one\": false, \"steps_offset\": 1,"
    " \"trained_betas\": null}";

// Reading and writing again changes nothing. (Structs have padding: texts are compared.)
static void assert_same_file(const char *path, const char *other) {
    assert_string_equal(kept(read_file(path, NULL)), kept(read_file(other, NULL)));
}

static void test_unet(void **state) {
    (void)state;
    char *path = scratch_path("unet.json"), *again = scratch_path("unet2.json");
    write_text(path, sd2_unet);
    UNetConfig c = unet_config_read(path);
    assert_int_equal(c.levels, 4);
    assert_int_equal(c.block_out_channels[2], 1280);
    assert_int_equal(c.num_heads[1], 10);
    assert_true(c.down_attention[0] && !c.down_attention[3] && !c.up_attention[0] && c.up_attention[3]);
    assert_int_equal(c.cross_attention_dim, 1024);
    assert_int_equal(c.transformer_layers, 1);
    assert_true(c.use_linear_projection && c.flip_sin_to_cos && c.norm_eps == 1e-5f && c.downsample_padding == 1);
    unet_config_write(&c, again);
    UNetConfig d = unet_config_read(again);
    char *third = scratch_path("third.json");
    unet_config_write(&d, third);
    assert_same_file(again, third);
    assert_non_null(strstr(kept(read_file(again, NULL)), "\"norm_eps\": 1e-05"));
}

static void test_unet_defaults(void **state) {
    (void)state;
    char *path = scratch_path("defaults.json");
    char *text = replaced(sd2_unet, "\"attention_head_dim\": [5, 10, 20, 20],", "");
    text = replaced(text, "\"cross_attention_dim\": 1024,", "");
    text = replaced(text, ", \"use_linear_projection\": true", "");
    text = replaced(text, "\"sample_size\": 96,", "\"sample_size\": null,");
    write_text(path, text);
    UNetConfig c = unet_config_read(path);
    assert_true(c.num_heads[0] == 8 && c.num_heads[3] == 8);
    assert_int_equal(c.cross_attention_dim, 1280);
    assert_false(c.use_linear_projection);
    assert_int_equal(c.sample_size, 0);
    // num_attention_heads goes before attention_head_dim
    write_text(path, replaced(sd2_unet, "\"act_fn\"", "\"num_attention_heads\": [2, 4, 8, 8], \"act_fn\""));
    assert_int_equal(unet_config_read(path).num_heads[2], 8);
    // a null field is a missing one; lists of equal numbers are a number
    write_text(path, replaced(sd2_unet, "\"layers_per_block\": 2", "\"layers_per_block\": [2, 2, 2, 2], \"x\": null"));
    assert_int_equal(unet_config_read(path).layers_per_block, 2);
}

static void test_vae(void **state) {
    (void)state;
    char *path = scratch_path("vae.json"), *again = scratch_path("vae2.json");
    write_text(path, sd2_vae);
    VAEConfig c = vae_config_read(path);
    assert_true(c.levels == 4 && c.latent_channels == 4 && c.scaling_factor == 0.18215f && c.sample_size == 768);
    assert_true(c.mid_block_attention && c.quant_conv && c.post_quant_conv);
    vae_config_write(&c, again);
    VAEConfig d = vae_config_read(again);
    char *third = scratch_path("third.json");
    vae_config_write(&d, third);
    assert_same_file(again, third);
    assert_non_null(strstr(kept(read_file(again, NULL)), "\"scaling_factor\": 0.18215,"));
}

static void test_clip(void **state) {
    (void)state;
    char *path = scratch_path("clip.json"), *again = scratch_path("clip2.json");
    write_text(path, sd2_text);
    CLIPConfig c = clip_config_read(path);
    assert_true(c.hidden_size == 1024 && c.num_hidden_layers == 23 && c.num_attention_heads == 16 && !c.quick_gelu);
    clip_config_write(&c, again);
    CLIPConfig d = clip_config_read(again);
    char *third = scratch_path("third.json");
    clip_config_write(&d, third);
    assert_same_file(again, third);
    write_text(path, replaced(sd2_text, "\"gelu\"", "\"quick_gelu\""));
    assert_true(clip_config_read(path).quick_gelu);
    // heads of any size; what matters in training only
    write_text(path, replaced(sd2_text, "\"num_attention_heads\": 16", "\"num_attention_heads\": 512"));
    assert_int_equal(clip_config_read(path).num_attention_heads, 512);
    write_text(path, replaced(sd2_text, "\"attention_dropout\": 0.0", "\"attention_dropout\": 0.1"));
    assert_int_equal(clip_config_read(path).hidden_size, 1024);
}

static void test_scheduler(void **state) {
    (void)state;
    char *path = scratch_path("scheduler.json"), *again = scratch_path("scheduler2.json");
    write_text(path, sd2_scheduler);
    ScheduleConfig c = schedule_config_read(path);
    assert_true(c.beta_start == 0.00085 && c.beta_end == 0.012 && c.scaled_linear && c.prediction == PREDICT_V);
    assert_true(c.spacing == SPACING_LEADING && c.steps_offset == 1 && !c.set_alpha_to_one);
    schedule_config_write(&c, again);
    ScheduleConfig d = schedule_config_read(again);
    char *third = scratch_path("third.json");
    schedule_config_write(&d, third);
    assert_same_file(again, third);
    assert_non_null(strstr(kept(read_file(again, NULL)), "\"beta_start\": 0.00085,"));
    assert_non_null(strstr(kept(read_file(again, NULL)), "\"clip_sample\": false,"));
    assert_non_null(strstr(kept(read_file(again, NULL)), "\"clip_sample_range\": 1"));
    write_text(path,
               replaced(sd2_scheduler, "\"trained_betas\"", "\"lambda_min_clipped\": -Infinity, \"trained_betas\""));
    assert_true(schedule_config_read(path).beta_end == 0.012);
    write_text(path, "{}"); // DDIMScheduler's own defaults
    c = schedule_config_read(path);
    assert_true(c.beta_start == 0.0001 && c.beta_end == 0.02 && !c.scaled_linear && c.prediction == PREDICT_EPSILON);
    assert_true(c.set_alpha_to_one && c.num_train_timesteps == 1000);
    // The pipeline's rule, for a file of any scheduler class and whatever it says: latents are not clipped.
    const char *const of_classes[] = {"{\"_class_name\": \"EulerDiscreteScheduler\"}", "{\"clip_sample\": true}",
                                      "{\"clip_sample\": false, \"clip_sample_range\": 0}"};
    for (int i = 0; i < 3; i++) {
        write_text(path, of_classes[i]);
        assert_int_equal(schedule_config_read(path).num_train_timesteps, 1000);
    }
}

// ---- Refusals ------------------------------------------------------------------------------------------------------

static void read_unet(const char *path) { unet_config_read(path); }
static void read_vae(const char *path) { vae_config_read(path); }
static void read_clip(const char *path) { clip_config_read(path); }
static void read_scheduler(const char *path) { schedule_config_read(path); }

typedef struct {
    const char *old, *new, *field;
} Refusal;

static void check(void (*reader)(const char *), const char *text, const Refusal *refusals, size_t count) {
    char *path = scratch_path("refused.json");
    for (size_t i = 0; i < count; i++) {
        write_text(path, replaced(text, refusals[i].old, refusals[i].new));
        char *field = kept(xprintf("\"%s\"", refusals[i].field));
        assert_dies(field, reader(path));
        assert_dies("refused.json", reader(path));
    }
    for (size_t n = 0; n + 1 < strlen(text); n += 37) { // cut off anywhere
        atomic_write(path, text, n);
        assert_dies("refused.json", reader(path));
    }
    print_message("%zu configurations refused\n", count);
}
#define CHECK(reader, text, list) check(reader, text, list, sizeof list / sizeof *list)
#define ADD(field, value)                                                                                              \
    { "\"act_fn\"", "\"" field "\": " value ", \"act_fn\"", field }

static void test_refused_unets(void **state) {
    (void)state;
    static const Refusal refusals[] = {
        {"\"silu\"", "\"gelu\"", "act_fn"},
        {"\"UNet2DConditionModel\"", "\"UNet2DModel\"", "_class_name"},
        {"\"center_input_sample\": false", "\"center_input_sample\": true", "center_input_sample"},
        {"\"dual_cross_attention\": false", "\"dual_cross_attention\": true", "dual_cross_attention"},
        {"\"only_cross_attention\": false", "\"only_cross_attention\": [false, true, true, true]",
         "only_cross_attention"},
        {"\"mid_block_scale_factor\": 1", "\"mid_block_scale_factor\": 2", "mid_block_scale_factor"},
        {"[320, 640, 1280, 1280]", "[320, 641, 1280, 1280]", "block_out_channels"},
        {"[320, 640, 1280, 1280]", "[]", "block_out_channels"},
        {"[320, 640, 1280, 1280]", "[32, 32, 32, 32, 32, 32, 32, 32, 32]", "block_out_channels"},
        {"[320, 640, 1280, 1280]", "[320, 640, 1280]", "down_block_types"},
        {"\"DownBlock2D\"", "\"AttnDownBlock2D\"", "down_block_types"},
        {"\"UpBlock2D\"", "\"SkipUpBlock2D\"", "up_block_types"},
        {"[5, 10, 20, 20]", "[5, 10, 20]", "attention_head_dim"},
        {"[5, 10, 20, 20]", "[3, 10, 20, 20]", "attention_head_dim"},
        {"[5, 10, 20, 20]", "[5, 10, 20, 2560]", "attention_head_dim"},
        {"[5, 10, 20, 20]", "[0, 10, 20, 20]", "attention_head_dim"},
        {"[5, 10, 20, 20]", "\"eight\"", "attention_head_dim"},
        {"\"in_channels\": 4", "\"in_channels\": 0", "in_channels"},
        {"\"in_channels\": 4", "\"in_channels\": 4.5", "in_channels"},
        {"\"norm_eps\": 1e-05", "\"norm_eps\": -1", "norm_eps"},
        {"\"norm_num_groups\": 32", "\"norm_num_groups\": 7", "block_out_channels"},
        {"\"layers_per_block\": 2", "\"layers_per_block\": [1, 2, 2, 2]", "layers_per_block"},
        {"\"downsample_padding\": 1", "\"downsample_padding\": 2", "downsample_padding"},
        {"\"freq_shift\": 0", "\"freq_shift\": 160", "freq_shift"},
        ADD("time_cond_proj_dim", "256"),
        ADD("class_embed_type", "\"timestep\""),
        ADD("addition_embed_type", "\"text_time\""),
        ADD("num_class_embeds", "10"),
        ADD("encoder_hid_dim", "4096"),
        ADD("resnet_time_scale_shift", "\"scale_shift\""),
        ADD("mid_block_type", "\"UNetMidBlock2DSimpleCrossAttn\""),
        ADD("time_embedding_type", "\"fourier\""),
        ADD("conv_in_kernel", "1"),
        ADD("transformer_layers_per_block", "[1, 2, 10, 10]"),
        ADD("reverse_transformer_layers_per_block", "[[1, 2]]"),
        ADD("attention_type", "\"gated\""),
        ADD("dropout", "0.1"),
        // each with a range of its own: 4294967297 is not 1
        {"\"layers_per_block\": 2", "\"layers_per_block\": 16777216", "layers_per_block"},
        {"\"layers_per_block\": 2", "\"layers_per_block\": 4294967297", "layers_per_block"},
        {"\"downsample_padding\": 1", "\"downsample_padding\": 4294967297", "downsample_padding"},
        {"\"freq_shift\": 0", "\"freq_shift\": 4294967296", "freq_shift"},
        {"\"sample_size\": 96", "\"sample_size\": 1000000000", "sample_size"},
        {"[320, 640, 1280, 1280]", "[320, 640, 1280, 4294968576]", "block_out_channels"},
        {"[320, 640, 1280, 1280]", "[320, 640, 1280, -1280]", "block_out_channels"},
        {"[5, 10, 20, 20]", "[5, 10, 20, 4294967316]", "attention_head_dim"},
        {"\"cross_attention_dim\": 1024", "\"cross_attention_dim\": 4294968320", "cross_attention_dim"},
        {"\"norm_eps\": 1e-05", "\"norm_eps\": 1e999", "norm_eps"},
        ADD("transformer_layers_per_block", "1000000"),
    };
    CHECK(read_unet, sd2_unet, refusals);
}

static void test_refused_others(void **state) {
    (void)state;
    static const Refusal vae[] = {
        {"\"silu\"", "\"relu\"", "act_fn"},
        {"\"AutoencoderKL\"", "\"AutoencoderTiny\"", "_class_name"},
        {"\"in_channels\": 3", "\"in_channels\": 4", "in_channels"},
        {"\"scaling_factor\": 0.18215", "\"scaling_factor\": 0", "scaling_factor"},
        {"\"scaling_factor\": 0.18215", "\"scaling_factor\": 1e300", "scaling_factor"}, // infinite as a float
        {"\"scaling_factor\": 0.18215", "\"scaling_factor\": 1e-300", "scaling_factor"},
        {"\"DownEncoderBlock2D\"", "\"AttnDownEncoderBlock2D\"", "down_block_types"},
        ADD("shift_factor", "0.1159"),
        ADD("latents_mean", "[0, 0, 0, 0]"),
        ADD("latents_std", "[1, 1, 1, 1]"),
    };
    CHECK(read_vae, sd2_vae, vae);
    static const Refusal clip[] = {
        {"\"gelu\"", "\"gelu_new\"", "hidden_act"},
        {"\"clip_text_model\"", "\"t5\"", "model_type"},
        {"[\"CLIPTextModel\"]", "[\"CLIPTextModelWithProjection\"]", "architectures"},
        {"\"num_attention_heads\": 16", "\"num_attention_heads\": 12", "num_attention_heads"},
        {"\"hidden_size\": 1024", "\"hidden_size\": \"x\"", "hidden_size"},
        {"\"num_hidden_layers\": 23", "\"num_hidden_layers\": 0", "num_hidden_layers"},
        {"\"num_hidden_layers\": 23", "\"num_hidden_layers\": 16777216", "num_hidden_layers"},
        {"\"hidden_size\": 1024", "\"hidden_size\": 4294968320", "hidden_size"},
    };
    assert_dies("missing.json", read_clip(scratch_path("missing.json")));
    CHECK(read_clip, sd2_text, clip);
    static const Refusal scheduler[] = {
        {"\"scaled_linear\"", "\"squaredcos_cap_v2\"", "beta_schedule"},
        {"\"v_prediction\"", "\"flow\"", "prediction_type"},
        {"\"trained_betas\": null", "\"trained_betas\": [0.1]", "trained_betas"},
        {"\"beta_end\": 0.012", "\"beta_end\": 1.5", "beta_end"},
        {"\"beta_end\": 0.012", "\"beta_end\": Infinity", "beta_end"},
        {"\"beta_start\": 0.00085", "\"beta_start\": 0", "beta_start"},
        {"\"beta_start\": 0.00085", "\"beta_start\": 5", "beta_start"},
        {"\"num_train_timesteps\": 1000", "\"num_train_timesteps\": 1", "num_train_timesteps"},
        {"\"steps_offset\": 1", "\"steps_offset\": -1", "steps_offset"},
        {"\"steps_offset\": 1", "\"steps_offset\": 4294967297", "steps_offset"},
        {"\"num_train_timesteps\": 1000", "\"num_train_timesteps\": 4294968296", "num_train_timesteps"},
        {"\"steps_offset\": 1", "\"timestep_spacing\": \"karras\"", "timestep_spacing"},
    };
    CHECK(read_scheduler, sd2_scheduler, scheduler);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unet),
        cmocka_unit_test(test_unet_defaults),
        cmocka_unit_test(test_vae),
        cmocka_unit_test(test_clip),
        cmocka_unit_test(test_scheduler),
        cmocka_unit_test(test_refused_unets),
        cmocka_unit_test(test_refused_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
