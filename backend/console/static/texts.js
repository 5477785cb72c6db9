// Every fixed word of the page in both languages; sentences about the state come from the server in both.

const TEXTS = {
  steps_candidates: ["题目与候选", "Prompts"],
  steps_rankings: ["排序", "Ranking"],
  steps_reward: ["奖励模型", "Reward model"],
  steps_ppo: ["PPO 训练", "PPO"],
  steps_review: ["盲评", "Review"],
  state_waiting: ["等待中", "waiting"],
  state_running: ["进行中", "running"],
  state_people: ["等待团队", "your team’s turn"],
  state_done: ["完成", "done"],
  state_attention: ["需要处理", "needs attention"],
  round: ["第 {n} 轮", "Round {n}"],
  summary: [
    "{prompts} 道题目 · {responses} 个回答 · {annotators} 人完成 {rankings} 份排序 · 当前模型 {model}",
    "{prompts} prompts · {responses} answers · {rankings} rankings from a team of {annotators} · serving {model}",
  ],
  summary_unranked: [
    "{prompts} 道题目 · {responses} 个回答 · 尚无排序 · 当前模型 {model}",
    "{prompts} prompts · {responses} answers · no rankings yet · serving {model}",
  ],
  base: ["基础模型", "base model"],
  train: ["立即开始训练", "Start training now"],
  train_ask: [
    "现在就用已有的排序训练奖励模型。通过检验后会自动开始 PPO。",
    "The reward model trains now with the rankings that are there. If it passes the gate, PPO follows by itself.",
  ],
  ppo: ["仍要运行 PPO", "Run PPO anyway"],
  ppo_ask: [
    "奖励模型尚未通过检验。PPO 会照着它学，可能学到错误的偏好。",
    "The reward model has not passed the gate. PPO learns whatever it prefers, which may not be what your team prefers.",
  ],
  ppo_passed: ["开始 PPO", "Start PPO"],
  ppo_passed_ask: [
    "奖励模型已通过检验。PPO 会让模型学习它的偏好，结束后由团队盲评。",
    "The reward model has passed the gate. PPO moves the model towards it, then your team judges the answers blind.",
  ],
  stop: ["停止", "Stop"],
  stop_ask: ["停止正在进行的任务 {id}？它不会自动继续。", "Stop the run {id}? It will not go on by itself."],
  retry: ["再试一次", "Try again"],
  retry_ask: [
    "从上次的断点继续；如果设置已经更改，候选回答和奖励模型会按新设置重新开始。",
    "It goes on where it was; candidates and the reward model begin anew if the settings have changed.",
  ],
  conclude: ["现在得出结论", "Conclude now"],
  conclude_ask: [
    "只用已完成的 {done} / {total} 份盲评得出结论，之后的盲评不再计入。",
    "The verdict then rests on {done} of {total} judgements; later ones do not count.",
  ],
  promote: ["启用 {model}", "Promote {model}"],
  promote_ask: [
    "下一轮的候选回答将由它生成。可以随时回退。",
    "The next round’s candidates come from it. You can roll back at any time.",
  ],
  rollback: ["回退", "Roll back"],
  rollback_ask: ["让之前的模型重新生效，代替 {model}？", "Let the model before {model} serve again?"],
  confirm_yes: ["确定", "Confirm"],
  confirm_no: ["取消", "Cancel"],
  link_prompts: ["题目项目", "Prompts"],
  link_ranking: ["排序项目", "Ranking"],
  link_review: ["盲评项目", "Review"],
  link_report: ["报告", "Reports"],
  links_title: ["在 Label Studio 中打开", "Open in Label Studio"],
  language: ["English", "中文"],
  theme: ["切换浅色或深色", "Switch between light and dark"],
  log_out: ["退出", "Log out"],
  workspace: ["工作区", "Workspace"],
  reward_title: ["奖励模型", "Reward model"],
  reward_lead: ["学习团队的偏好", "learns what your team prefers"],
  ppo_title: ["PPO", "PPO"],
  ppo_lead: ["让模型向这个偏好靠近", "moves the model towards it"],
  loss: ["损失", "Loss"],
  accuracy: ["准确率", "Accuracy"],
  reward: ["奖励", "Reward"],
  kl: ["KL 散度", "KL divergence"],
  length: ["回答长度", "Answer length"],
  clip_fraction: ["截断比例", "Clipped share"],
  axis_step: ["步", "step"],
  axis_update: ["更新次数", "update"],
  axis_nats: ["nats", "nats"],
  axis_tokens: ["词元", "tokens"],
  series_train: ["训练", "training"],
  series_heldout: ["留出", "held-out"],
  series_rollout: ["采样", "rollouts"],
  series_verify: ["验证", "verification"],
  gate: ["门槛", "gate"],
  ceiling: ["团队一致度上限", "ceiling by your team’s agreement"],
  no_reward_curve: ["训练开始后，曲线会出现在这里。", "The curve appears here when training starts."],
  no_ppo_curve: ["奖励模型通过检验后，PPO 的曲线会出现在这里。", "The curve appears here once the reward model has passed and PPO runs."],
  outcome_passed: ["通过检验", "passed the gate"],
  outcome_not_enough_evidence: ["证据不足", "not enough evidence"],
  outcome_failed: ["未通过检验", "did not pass"],
  heldout_accuracy: ["留出准确率", "Held-out accuracy"],
  of_pairs: ["{pairs} 对从未训练过的回答", "{pairs} pairs never trained on"],
  rankings_needed: ["还需要约 {n} 份排序", "about {n} more rankings needed"],
  longer_baseline: ["“总选更长”可达到 {value}", "“always the longer one” would reach {value}"],
  shorter_baseline: ["“总选更短”可达到 {value}", "“always the shorter one” would reach {value}"],
  reward_change: ["奖励", "Reward"],
  length_change: ["长度", "Length"],
  kl_reached: ["KL", "KL"],
  updates: ["更新", "Updates"],
  updates_done: ["次更新", "updates"],
  stop_reason: ["结束原因", "Ended because"],
  stop_converged: ["已收敛", "converged"],
  stop_updates: ["达到更新上限", "reached the most updates"],
  stop_kl: ["KL 过大", "KL grew too large"],
  stop_diverged: ["训练发散", "the numbers diverged"],
  stop_length_collapse: ["回答变得过短", "answers became too short"],
  stop_length_explosion: ["回答停不下来", "answers did not end any more"],
  stop_garbled: ["出现乱码", "answers became garbled"],
  stop_entropy_collapse: ["回答变得千篇一律", "it says the same all the time"],
  stop_over_optimisation: ["过度优化", "over-optimisation"],
  stop_number: ["{measured}，界限 {limit}", "{measured}, limit {limit}"],
  resumed: ["断点续跑", "resumed from a checkpoint"],
  verdict_title: ["盲评结论", "Verdict of the blind review"],
  verdict_better: ["训练后更好", "The new model is better"],
  verdict_worse: ["训练后更差", "The new model is worse"],
  verdict_no_difference: ["没有超过 {points} 个百分点的差别", "No difference larger than {points} points"],
  verdict_not_enough_evidence: ["证据不足", "Not enough evidence"],
  verdict_pending: ["盲评进行中", "Review under way"],
  verdict_none: [
    "PPO 结束后，团队会在 Label Studio 里盲评训练前后的回答，结论显示在这里。",
    "When PPO is done, your team compares answers from before and after, blind, in Label Studio. The verdict appears here.",
  ],
  judged: ["已评 {done} / {total}", "{done} of {total} judged"],
  seen: ["训练中见过的题目", "Prompts seen in training"],
  unseen: ["从未见过的题目", "Prompts never seen"],
  wins: ["胜", "wins"],
  ties: ["平", "ties"],
  losses: ["负", "losses"],
  win_rate: ["胜率", "Win rate"],
  p_value: ["显著性", "Significance"],
  equal_length: ["长度相同时", "At equal length"],
  reviewers: ["评审者一致", "Reviewers agree"],
  length_review: ["平均长度", "Mean length"],
  characters: ["字符", "characters"],
  reviews_needed: ["还需盲评", "More reviews needed"],
  about: ["约 {n} 份", "about {n}"],
  advice_title: ["下一步建议", "Advice"],
  advice_none: ["目前没有建议。有了测量结果，这里会说明下一步怎么做。", "No advice yet. As results come in, this says what to do next, and why."],
  action_rank_more: ["去排序", "Rank more"],
  action_import_prompts: ["导入题目", "Import prompts"],
  action_show_tasks: ["查看分歧", "Show the tasks"],
  apply: ["照此执行", "Apply"],
  apply_ask: ["{does}", "{does}"],
  revert: ["撤回", "Take back"],
  revert_ask: ["把这些设置改回原来的值？已启动的任务不受影响。", "Set this back to what it was? What was started goes on."],
  applied_title: ["已执行的建议（{n}）", "Applied advice ({n})"],
  action_rank: ["去排序", "Rank answers"],
  action_review: ["去盲评", "Judge blind"],
  samples_title: ["回答的变化", "Answers as they change"],
  samples_lead: ["同一道题目，训练前与训练中", "the same prompt, before and during PPO"],
  samples_none: ["PPO 运行时，可以在这里看到回答逐步变化。", "While PPO runs, you can watch the answers change here."],
  samples_before: ["开始时", "at the start"],
  samples_at: ["第 {n} 次更新", "after update {n}"],
  score: ["得分", "score"],
  models_title: ["模型", "Models"],
  models_none: ["训练完成的模型会列在这里。", "Models appear here when their training is done."],
  runs_title: ["任务", "Runs"],
  runs_none: ["还没有任务。导入题目后会自动开始。", "Nothing has run yet. Import prompts and it begins by itself."],
  column_model: ["模型", "Model"],
  column_kind: ["类型", "Kind"],
  column_from: ["基于", "From"],
  column_made: ["完成于", "Made"],
  column_run: ["任务", "Run"],
  column_state: ["状态", "State"],
  column_progress: ["进度", "Progress"],
  column_time: ["用时", "Time"],
  kind_policy: ["回答模型", "policy"],
  kind_reward: ["奖励模型", "reward model"],
  kind_generate: ["生成候选", "candidates"],
  kind_ppo: ["PPO", "PPO"],
  kind_compare: ["前后对比", "before/after"],
  run_queued: ["排队中", "queued"],
  run_running: ["进行中", "running"],
  run_succeeded: ["完成", "done"],
  run_failed: ["失败", "failed"],
  run_cancelled: ["已停止", "stopped"],
  model_published: ["可用", "available"],
  model_promoted: ["使用中", "serving"],
  model_rolled_back: ["已回退", "rolled back"],
  model_removed: [
    "依赖的 {rankings} 个排序中有 {removed} 个已删除、修改或不再计入",
    "depends on {rankings} rankings, {removed} of them gone or changed",
  ],
  no_workspace: ["还没有工作区", "No workspace yet"],
  no_workspace_do: [
    "运行下面的命令，它会在 Label Studio 里建好四个项目并连接到这里：",
    "Run this command; it makes the four projects in Label Studio and connects them:",
  ],
  offline: ["与后端的连接中断，正在重试……", "The backend does not answer; trying again…"],
  label_studio_down: ["无法读取 Label Studio：请检查它是否运行、地址和密钥是否正确（详情：{reason}）", "Label Studio cannot be read: {reason}"],
};

const root = document.documentElement;
let language = root.dataset.language === "zh" ? "zh" : "en";

export const currentLanguage = () => language;

export function switchLanguage() {
  language = language === "zh" ? "en" : "zh";
  document.cookie = `language=${language}; path=/; max-age=31536000; samesite=strict`;
  root.lang = language === "zh" ? "zh-CN" : "en";
}

/** The text of a key, with `{name}` replaced. */
export function t(key, values = {}) {
  const text = TEXTS[key]?.[language === "zh" ? 0 : 1] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

/** The text of a key that may be unknown: then the fallback. */
export const known = (key, fallback) => (key in TEXTS ? t(key) : fallback);

/** One of a pair of sentences from the server: `{reason_zh, reason_en}` and the like. */
export const said = (object, name) => object[name ? `${name}_${language}` : language] ?? "";

/** Why a run failed; what failed says so in English, the server in Chinese. */
export const whyFailed = (run) => (language === "zh" ? run.error_zh : run.error);

/** Rounded as the server does it: of two sentences about 52.5 % none says 53 % where another says 52 %. */
export function percent(value, digits = 0) {
  if (value == null) return "–";
  const places = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  const shown = new Intl.NumberFormat("en", { ...places, useGrouping: false, roundingMode: "halfEven" });
  return `${shown.format(100 * value)} %`;
}

export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString(root.lang);
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return value.toFixed(1);
  return value.toFixed(size >= 1 || size === 0 ? 2 : 3);
}

export const count = (value) => (value ?? 0).toLocaleString(root.lang);

export const clock = (seconds) =>
  new Date(seconds * 1000).toLocaleString(root.lang, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });

export function duration(seconds) {
  if (!(seconds >= 0)) return "–";
  const [minutes, rest] = [Math.floor(seconds / 60), Math.round(seconds % 60)];
  if (minutes === 0) return language === "zh" ? `${rest} 秒` : `${rest} s`;
  return language === "zh" ? `${minutes} 分 ${rest} 秒` : `${minutes} min ${rest} s`;
}
