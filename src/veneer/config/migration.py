"""Settings of PEFT, TRL, transformers, Axolotl, Unsloth and LLaMA-Factory, and their counterparts in veneer.

A user who brings a configuration along writes `lora_r` or `eval_steps`. Such a key is refused like every unknown one.
The error names veneer's key and says how its meaning differs, since the nearest spelling may mislead: `eval_steps`
looks like `train.steps`, which would shorten the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counterpart:
    """The counterpart in veneer of a setting of another program."""

    keys: tuple[str, ...]
    """Veneer's dotted keys; empty where there is no such setting."""
    meaning: str
    """How the meaning differs, or why there is no such setting."""

    def sentence(self) -> str:
        """The counterpart as the end of an error line."""
        return f"veneer's is {' and '.join(self.keys)}: {self.meaning}" if self.keys else self.meaning


_SAME = "the meaning is the same"
_STEP = (
    "it counts the rows of a whole optimiser step (batch size × accumulation steps × devices); what is computed at a "
    "time is compute.micro_batch_tokens, in tokens; if rows were packed before, train.tokens_per_step is nearer"
)
_ACCUMULATION = (
    "give the rows of a whole step; how many passes a step takes follows from compute.micro_batch_tokens, and the "
    "loss does not depend on it"
)
_LENGTH = (
    "tokens of the longest row; a longer row is dropped and counted, or cut with data.overlong=truncate, and never cut "
    "in silence"
)
_PACKED = (
    "there is no such setting: rows are always laid end to end without padding, and no row sees another; "
    "data.max_length is the longest row, not the length of a pack"
)
_TRAINED = (
    "there is no such setting: the form of a row says what is trained (assistant turns of messages, the completion of "
    "prompt and completion, all of text)"
)
_TEMPLATE = "there is no such setting: chats are written with the model's own template and control tokens"
_EVALUATION = (
    "give the number of steps between evaluations; it needs data.eval_file or data.held_out, and is a tenth of the "
    "run by default"
)
_SAVES = "give the number of steps between checkpoints; it is a tenth of the run by default"
_BEST = (
    "name the metric without `eval_`: `loss`, one that the objective reports (`rewards/accuracies`), or one of answers "
    "(`exact`, `json`, `number`); the best checkpoint is always kept, and train.publish: best makes it the result"
)
_GREATER = "there is no such setting: veneer knows for each metric of train.best_metric whether more is better"
_LOG = (
    "there is no such setting: every step is written to events.jsonl and drawn in loss.svg; `--json` prints the events "
    "for other programs"
)
_TRACKERS = "a list of tensorboard, wandb, mlflow and trackio; by default there is none"
_PROJECT = "the name under which wandb, MLflow and Trackio collect runs; track names the programs"
_KERNELS = "there is no such setting: the fastest path of the machine is chosen, and `veneer doctor` says which and why"
_DEVICES = (
    "there is no such setting: add `--devices N` to the command, or start it by torchrun; docs/many-devices.md has more"
)
_HUB = "there is no such setting: nothing is uploaded to a hub"
_LOADING = "there is no such setting: rows are read and tokenised once, before the first step"
_OBJECTIVE = (
    "there is no such setting: objective says what a step minimises, and its sections what is added to it; the loss is "
    "a sum over the whole step, divided once"
)
_NONE = "there is no such setting"
_SHUFFLED = "there is no such setting: rows come in another order in every epoch, which follows from train.seed"
_FORMATS = "there is no such setting: a row's format is recognised by its keys"

_GROUPS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    # The model.
    ("base_model model_name_or_path model_name base_model_name_or_path pretrained_model_name_or_path",
     ("model",), "a directory, a GGUF file or a hub id"),
    ("model_revision revision_of_model base_model_revision",
     ("revision",), "branch, tag or commit of a hub id"),
    ("trust_remote_code model_init_kwargs model_type tokenizer_type base_model_config auto_mapping",
     (), "there is no such setting: the architecture is read from config.json, and code of a model is never run"),
    ("rope_scaling rope_theta overrides_of_model_config overrides_of_model_kwargs is_falcon_derived_model",
     (), "there is no such setting: sizes and positions are those of the model's config.json"),
    ("tokenizer_config tokenizer_name tokenizer_name_or_path tokenizer_use_fast use_fast_tokenizer tokenizer_legacy "
     "tokenizer_use_mistral_common split_special_tokens",
     (), "there is no such setting: the tokenizer is the model's"),
    ("adapter_name_or_path lora_model_dir",
     ("train.from_adapter",), "one folder of an adapter to start from; without it the run starts a new adapter"),
    ("create_new_adapter",
     (),
     "there is no such setting: to train a new adapter on top of an old one, export the old one with "
     "`veneer export --to merged` and train on the result"),
    # The method.
    ("load_in_4bit use_4bit load_4bit",
     ("method", "quant.scheme"), "true is method=qlora with quant.scheme=nf4, false is method=lora"),
    ("load_in_8bit",
     ("method", "quant.scheme"), "true is method=qlora with quant.scheme=int8, false is method=lora"),
    ("adapter finetuning_type peft_type use_peft",
     ("method",), "lora, qlora (a quantised base) or full (every weight)"),
    ("full_finetuning full_finetune",
     ("method",), "true is method=full"),
    ("quantization_bit",
     ("method", "quant.scheme"), "4 is method=qlora with quant.scheme=nf4, 8 with quant.scheme=int8"),
    ("quantization_method quantization_type bnb_4bit_quant_type",
     ("quant.scheme",), "nf4, fp4 or int8"),
    ("bnb_4bit_use_double_quant double_quantization use_bnb_nested_quant use_nested_quant",
     ("quant.double_quant",), _SAME),
    ("bnb_4bit_compute_dtype",
     ("compute.dtype",), "bfloat16, float16 or float32"),
    ("bnb_4bit_quant_storage",
     (), "there is no such setting: codes are stored in bytes"),
    ("llm_int8_skip_modules",
     ("quant.skip_modules",), "whole paths or their ends; embedding and head are always left out"),
    ("llm_int8_threshold llm_int8_has_fp16_weight llm_int8_enable_fp32_cpu_offload",
     (), "there is no such setting: int8 has one scale for every output, and products stay in the compute dtype"),
    ("quantization_config bnb_config bnb_config_kwargs gptq awq hqq",
     ("quant.scheme",), "the section quant says how the base is quantised, or --model names a model that is already"),
    # The adapter.
    ("r lora_r lora_rank",
     ("lora.rank",), _SAME),
    ("lora_alpha",
     ("lora.alpha",), "the update is scaled by alpha / rank, or alpha / √rank with lora.scaling=rslora"),
    ("lora_dropout",
     ("lora.dropout",), _SAME),
    ("lora_target lora_target_modules target_parameters lora_target_parameters lora_layers",
     ("lora.target_modules",),
     "all-linear, a list of names, or a regular expression; experts of a mixture are named in the same list"),
    ("lora_target_linear",
     ("lora.target_modules",), "all-linear, which is the default"),
    ("use_rslora peft_use_rslora",
     ("lora.scaling",), "true is rslora, false is standard"),
    ("use_dora peft_use_dora",
     ("lora.variant",), "true is dora, false is lora"),
    ("init_lora_weights peft_init_lora_weights pissa_init loftq_init",
     ("lora.init",),
     "true is kaiming; pissa, pissa_fast (for pissa_niter_N), olora, eva, loftq, gaussian and orthogonal by name"),
    ("pissa_iter pissa_niter",
     ("lora.init",), "pissa_fast uses the fast decomposition, pissa the exact one"),
    ("pissa_convert",
     (), "there is no such setting: an adapter is always saved for the untouched base"),
    ("loftq_config eva_config",
     ("lora.init",), "loftq or eva; neither has settings of its own"),
    ("use_lorafa",
     ("lora.factors",), "true is b"),
    ("lora_bias",
     ("lora.bias",), "none, all or lora_only: biases of the base; an adapter's B has no bias of its own"),
    ("lora_modules_to_save additional_target",
     ("lora.modules_to_save",), "names or ends of paths"),
    ("trainable_token_indices peft_trainable_token_indices",
     ("lora.trainable_tokens",), "token ids"),
    ("new_special_tokens add_tokens add_special_tokens tokens resize_vocab resize_token_embeddings_to_32x",
     ("lora.new_tokens",), "texts that become tokens; the vocabulary grows by itself"),
    ("peft_layers_to_transform",
     ("lora.layers_to_transform",), "the numbers of the adapted layers"),
    ("layers_pattern peft_layers_pattern",
     ("lora.target_modules",), "a regular expression over whole paths"),
    ("lora_attn_modules apply_lora_to_mlp apply_lora_to_output finetune_attention_modules finetune_mlp_modules "
     "finetune_language_layers",
     ("lora.target_modules",), "all-linear, or a list of names such as [q_proj, v_proj]"),
    ("fan_in_fan_out lora_fan_in_fan_out",
     (), "there is no such setting: the model defines the layout of each weight"),
    ("peft_autocast_adapter_dtype autocast_adapter_dtype",
     (), "there is no such setting: adapters are always float32"),
    ("ensure_weight_tying peft_ensure_weight_tying",
     (), "there is no such setting: tied weights stay tied"),
    ("task_type lora_task_type inference_mode peft_version",
     (), "there is no such setting: objective says what is trained, a causal language model or a reward model"),
    ("peft_config lora_config peft",
     ("lora.rank",), "the section is called lora, and its keys have other names"),
    ("layer_replication peft_layer_replication megatron_config megatron_core corda_config lora_ga_config "
     "velora_config alora_invocation_tokens use_qalora qalora_group_size monteclora_config runtime_config "
     "use_bdlora arrow_config kasa_config relora relora_* use_galore galore_* use_apollo apollo_* use_badam badam_* "
     "use_llama_pro use_muon use_adam_mini shift_attn s2_attention mixture_of_depths freeze_trainable_layers "
     "freeze_trainable_modules freeze_extra_modules unfrozen_parameters optimizer_in_bwd qat kd_trainer kd_alpha",
     (), "veneer has no such kind of adapter or method"),
    # The rows.
    ("dataset datasets dataset_name dataset_path data_path data_files train_file train_data train_dataset "
     "training_file",
     ("data.file",),
     "a file (JSONL, JSON, CSV or Parquet), a pattern of files, or hub:owner/name[split]; several files with weights "
     "are data.sources"),
    ("eval_dataset test_datasets validation_file eval_data test_file validation_dataset",
     ("data.eval_file",), "a file for the evaluation loss, given as data.file"),
    ("val_set_size val_size validation_split eval_split test_size validation_split_percentage",
     ("data.held_out",), "a share of the rows, less than 1; not a number of rows"),
    ("mix_strategy interleave_probs",
     ("data.sources",), "a list of {file, weight}"),
    ("max_length max_seq_length max_seq_len sequence_len eval_sequence_len cutoff_len model_max_length "
     "block_size context_length",
     ("data.max_length",), _LENGTH),
    ("truncation_mode excess_length_strategy truncation",
     ("data.overlong",), "drop, truncate, which cuts a row's end, or split, which cuts a text into pieces"),
    ("packing sample_packing eval_sample_packing neat_packing eval_packing packing_strategy padding_free "
     "group_by_length pad_to_sequence_len pad_to_multiple_of train_sampling_strategy length_column_name "
     "sample_packing_sequentially sample_packing_group_size sample_packing_bin_size batch_flattening packed",
     (), _PACKED),
    ("completion_only_loss assistant_only_loss train_on_inputs train_on_responses_only train_on_prompt "
     "mask_history roles_to_train response_template instruction_template train_on_input train_on_eos train_on_eot",
     (), _TRAINED),
    ("chat_template template chat_template_path chat_template_jinja enable_thinking tool_format default_system "
     "eos_token pad_token special_tokens "
     "default_system_message",
     (), _TEMPLATE),
    ("dataset_text_field field_messages field_instruction field_input field_output column_mapping columns_mapping "
     "column_map",
     ("data.columns",), "the file's name of each column, such as {text: content}"),
    ("dataset_kwargs formatting_func dataset_format remove_unused_columns label_names",
     (), _FORMATS),
    ("dataset_num_proc dataset_processes preprocessing_num_workers "
     "streaming ignore_data_skip dataset_dir buffer_size preprocessing_batch_size",
     (), _LOADING),
    ("shuffle shuffle_dataset disable_shuffling shuffle_merged_datasets shuffle_before_merging_datasets",
     (), _SHUFFLED),
    ("min_sample_len",
     (), "there is no such setting: short rows are never left out"),
    ("dataset_prepared_path tokenized_path",
     ("data.cache_dir",), "the folder of tokenised rows, which large files get by themselves (data.cache)"),
    ("overwrite_cache",
     (), "there is no such setting: tokenised rows are reused only while everything that they depend on is unchanged"),
    ("dataloader_*",
     (), _LOADING),
    ("max_samples max_train_samples max_eval_samples",
     (), "there is no such setting: give a file with fewer rows"),
    # The optimisation.
    ("per_device_train_batch_size micro_batch_size batch_size train_batch_size per_gpu_train_batch_size "
     "total_batch_size global_batch_size",
     ("train.examples_per_step",), _STEP),
    ("gradient_accumulation_steps",
     ("train.examples_per_step",), _ACCUMULATION),
    ("per_device_eval_batch_size eval_batch_size auto_find_batch_size eval_accumulation_steps "
     "per_gpu_eval_batch_size",
     ("compute.micro_batch_tokens",), "tokens computed at a time, in training and in evaluation; auto chooses them"),
    ("num_train_epochs num_epochs n_epochs",
     ("train.epochs",), "passes over the rows; fractions are allowed"),
    ("max_steps num_steps total_steps",
     ("train.steps",), "optimiser steps, instead of train.epochs; give one of the two"),
    ("lr",
     ("train.learning_rate",), "the peak rate, or auto"),
    ("warmup_ratio warmup_steps num_warmup_steps",
     ("train.warmup",), "a share of the steps, not a number of them"),
    ("lr_scheduler_type lr_scheduler scheduler",
     ("train.schedule",), "cosine, linear or constant, each after the warm-up"),
    ("lr_scheduler_kwargs cosine_min_lr_ratio min_lr_rate min_lr min_learning_rate",
     ("train.min_rate",), "the rate that the schedule falls towards, as a share of the peak"),
    ("optim",
     ("train.optimizer",),
     "adamw, adamw8bit, paged_adamw, paged_adamw8bit, adafactor, lion or sgd (adamw for every kind of adamw_torch)"),
    ("adam_beta1",
     ("train.beta1",), _SAME),
    ("adam_beta2",
     ("train.beta2",), _SAME),
    ("adam_epsilon",
     (), "there is no such setting: AdamW's epsilon is 1e-8"),
    ("max_grad_norm gradient_clipping grad_clip",
     ("train.clip",), "the largest norm of the whole gradient; 0 clips nothing"),
    ("loraplus_lr_ratio lora_plus_lr_ratio",
     ("train.lora_plus_ratio",), "the rate of B as a multiple of A's"),
    ("loss_watchdog_threshold loss_watchdog_patience",
     ("train.skip_bad_steps",),
     "true leaves out a step whose loss is not finite or far above the last ones, and three in a row end the run"),
    ("loraplus_lr_embedding embedding_lr embedding_lr_scale embedding_learning_rate lr_quadratic_warmup "
     "lr_div_factor optim_args optim_target_modules lr_groups "
     "adam_epsilon2 adam_beta3",
     (), _NONE),
    ("random_state data_seed",
     ("train.seed",), "it seeds the adapter's start, the order of the rows and dropout"),
    ("full_determinism",
     ("compute.deterministic",), "it is for a GPU; the same run on the same CPU gives the same bytes without it"),
    ("neftune_noise_alpha label_smoothing_factor router_aux_loss_coef moe_aux_loss_coef average_tokens_across_devices "
     "use_weighting f_divergence_type f_alpha_divergence_coef ld_alpha seq_kd delta",
     (), _OBJECTIVE),
    ("loss_type",
     ("dpo.loss", "grpo.loss_type"), "the formula of pairs, or of sampled answers; other objectives have one each"),
    ("stage rl trainer_type rlhf_type",
     ("objective",),
     "sft, pretraining, dpo, orpo, cpo, simpo, kto, distillation, reward (for rm) or grpo; docs/objectives.md has the "
     "rows of each"),
    # Preferences, rewards and teachers.
    ("pref_beta dpo_beta",
     ("dpo.beta",), "β of dpo; orpo, cpo, simpo and kto have their own in the section of their name"),
    ("rl_beta beta",
     ("dpo.beta", "orpo.beta", "cpo.beta", "simpo.beta", "kto.beta", "grpo.beta", "distillation.beta"),
     "β of the objective, in the section of its name"),
    ("pref_loss dpo_loss_type",
     ("dpo.loss",), "sigmoid, robust, hinge, ipo or sigmoid_norm; orpo and simpo are objectives"),
    ("pref_ftx rpo_alpha",
     ("dpo.nll",), "the weight of the chosen answers' cross-entropy"),
    ("dpo_label_smoothing",
     ("dpo.label_smoothing",), _SAME),
    ("orpo_alpha",
     ("orpo.beta",), "the weight of the odds ratio"),
    ("cpo_alpha",
     ("cpo.nll",), _SAME),
    ("simpo_gamma",
     ("simpo.gamma",), _SAME),
    ("kto_chosen_weight kto_desirable_weight",
     ("kto.desirable_weight",), _SAME),
    ("kto_rejected_weight kto_undesirable_weight",
     ("kto.undesirable_weight",), _SAME),
    ("ref_model ref_model_adapters ref_adapter_name model_adapter_name force_use_ref_model precompute_ref_log_probs "
     "sync_ref_model",
     ("dpo.reference", "kto.reference", "grpo.reference"),
     "start or base; its log-probabilities are computed without a second model"),
    ("reference_free",
     ("objective",), "orpo, cpo and simpo do not need a reference"),
    ("max_prompt_length",
     ("data.max_length",), "the length of the prompt under grpo, and of the whole row under all other objectives"),
    ("reward_funcs reward_weights reward_model reward_model_path",
     ("rewards",), "a list of {python, command, metric or adapter, weight}; docs/objectives.md has the keys"),
    ("teacher_model teacher_model_name_or_path",
     ("distillation.teacher",), "a directory, a GGUF file or a hub id, with the vocabulary of model"),
    ("kd_temperature",
     ("distillation.temperature",), _SAME),
    ("temperature",
     ("grpo.temperature", "distillation.temperature"), "for sampled answers, or for the compared scores"),
    ("top_k",
     ("grpo.top_k", "distillation.top_k"), "for sampled answers, or the number of the teacher's tokens that are kept"),
    ("steps_per_generation generation_batch_size",
     ("train.examples_per_step", "grpo.num_iterations"),
     "answers are sampled for one step at a time: to this many prompts, for this many optimiser steps"),
    ("max_new_tokens eval_max_new_tokens",
     ("grpo.max_completion_length",),
     "the longest sampled answer; `veneer evaluate` and `generate` take --max-new-tokens"),
    ("use_vllm vllm_* fast_inference max_lora_rank",
     (), "there is no such setting: answers are sampled by veneer's own engine, over the weights that train"),
    # Evaluation, checkpoints, logs.
    ("eval_steps evals_per_epoch eval_strategy evaluation_strategy eval_delay eval_on_start eval_interval "
     "steps_per_eval",
     ("train.eval_every",), _EVALUATION),
    ("save_steps saves_per_epoch save_strategy save_interval",
     ("train.save_every",), _SAVES),
    ("save_total_limit",
     ("train.keep",), "the number of checkpoints to keep; that of the best evaluation is kept in addition"),
    ("do_train do_eval do_predict predict_with_generate prediction_loss_only",
     (), "there is no such setting: `veneer train` trains, `veneer evaluate` scores, `veneer generate` answers"),
    ("early_stopping_patience early_stopping_steps",
     ("train.patience",), "evaluations in a row without a new best one, after which the run ends"),
    ("load_best_model_at_end",
     ("train.publish",), "`best` for true: the weights of the best evaluation become the result"),
    ("metric_for_best_model",
     ("train.best_metric",), _BEST),
    ("greater_is_better",
     (), _GREATER),
    ("save_only_model save_safetensors save_on_each_node save_first_step save_compressed",
     (), "there is no such setting: checkpoints are complete, and the folder of the run holds the adapter alone"),
    ("resume_from_checkpoint auto_resume_from_checkpoints",
     (), "there is no such setting: add `--resume` to the same command"),
    ("output_dir run_dir",
     ("output",), "the folder must be a new one, except with `--resume`"),
    ("overwrite_output_dir",
     (), "there is no such setting: a run never overwrites another; give a new output"),
    ("report_to use_wandb use_tensorboard use_mlflow",
     ("track",), _TRACKERS),
    ("project wandb_project mlflow_experiment_name trackio_project",
     ("tracking.project",), _PROJECT),
    ("wandb_mode",
     ("tracking.mode",), "offline, which only writes files and is the default, or online"),
    ("logging_* log_* run_name wandb_* mlflow_* comet_* use_comet use_swanlab swanlab_* "
     "trackio_* disable_tqdm plot_loss include_num_input_tokens_seen include_tokens_per_second tensorboard_dir",
     (), _LOG),
    ("hub_* push_to_hub push_to_hub_*",
     (), _HUB),
    ("token hf_token hf_hub_token hf_use_auth_token use_auth_token",
     (), "there is no such setting: the hub is asked with the token that `hf auth login` has stored"),
    # The machine.
    ("bf16 fp16 tf32 bfloat16 float16 torch_dtype pure_bf16 bf16_full_eval fp16_full_eval",
     ("compute.dtype",),
     "bfloat16, float16 or float32; adapters and their gradients are float32 in each, and float16 scales the loss"),
    ("gradient_checkpointing activation_checkpointing use_gradient_checkpointing gradient_checkpointing_kwargs "
     "activation_checkpointing_kwargs activation_offloading disable_gradient_checkpointing "
     "enable_activation_checkpointing enable_activation_offloading use_reentrant_gc use_unsloth_gc",
     ("compute.recompute",),
     "auto recomputes only if memory does not suffice; layers always recomputes, never does not"),
    ("flash_attention flash_attn flash_attn_2 attn_implementation xformers_attention sdp_attention eager_attention "
     "better_transformer flash_attn_* "
     "use_liger_kernel enable_liger_kernel liger_* use_unsloth lora_mlp_kernel lora_qkv_kernel lora_o_kernel "
     "torch_compile torch_compile_* use_cache torch_empty_cache_steps unsloth_tiled_mlp "
     "cut_cross_entropy fused compile",
     (), _KERNELS),
    ("device_map use_cpu no_cuda max_memory",
     ("compute.device",), "auto, cpu, cuda or cuda:N; the memory's limit is compute.memory_limit_mb"),
    ("gpu_memory_utilization gpu_memory_limit",
     ("compute.memory_limit_mb",), "megabytes, neither gigabytes nor a share"),
    ("deepspeed fsdp fsdp_*",
     ("compute.sharding",),
     "`full` for full fine-tuning by FSDP2, where each process holds a part of the weights; adapters train on several "
     "devices without it (`--devices N`, or torchrun)"),
    ("ddp_timeout",
     ("compute.rank_timeout",), "seconds, or `90s`, `10m`"),
    ("ddp_* local_rank accelerator_config parallelism_config tensor_parallel_size "
     "context_parallel_size sequence_parallel_degree world_size num_gpus",
     (), _DEVICES),
    ("lora_on_cpu low_cpu_mem_usage experimental_skip_move_to_device",
     (), "there is no such setting: weights are read one by one, directly to their device"),
    ("debug skip_memory_metrics enable_jit_checkpoint batch_eval_metrics include_for_metrics "
     "eval_do_concat_batches eval_use_gather_object restore_callback_states_from_checkpoint",
     (), _NONE),
)  # fmt: skip
"""Names (a final `*` matches any ending), veneer's keys, and how the meaning differs."""

COUNTERPARTS: dict[str, Counterpart] = {
    name: Counterpart(keys, meaning) for names, keys, meaning in _GROUPS for name in names.split()
}
"""Counterparts by the other program's name of the setting; a name may end in `*`."""


def counterpart(path: Sequence[str]) -> Counterpart | None:
    """The counterpart of an unknown key, or None if no known program has this key.

    Args:
        path: the words of the dotted key; only the last one counts, not the section that it is in.
    """
    name = path[-1].lower().replace("-", "_")
    if found := COUNTERPARTS.get(name):
        return found
    prefixes = (known for known in COUNTERPARTS if known.endswith("*") and name.startswith(known[:-1]))
    return next((COUNTERPARTS[known] for known in prefixes), None)
