"""What kind of work a process does: ordered rules, the first that holds decides. To add one, add a row here.

A rule looks at one or more subjects and holds when each of its patterns is found whole in one of the subject's words;
all words are in lower case:
- `command`: names of what runs: program, script, module; never a folder
- `argument`: options and values, paths without their folders
- `parent`: the same as `command`, of all ancestors
- `context`: "compute", "graphics", "mps" on a GPU
- `place`: "steam" for a game, and "steam-tool" for a runtime, in a Steam library
- `library`: file names of loaded shared libraries
- `port`: TCP ports it listens on
- `behaviour`: words of `gpumon.process.behaviour`, known after it was watched for a while
The expensive ones (library, port) are read only for processes that no rule before decides.
"""

# ruff: noqa: E501, S108 - a row is easier to read than to wrap, and no path here is opened

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GAMING, LLM, TRAINING, GENERAL, UNKNOWN = "gaming", "llm_inference", "ml_training", "general_compute", "unknown"
CATEGORIES = (GAMING, LLM, TRAINING, GENERAL, UNKNOWN)

SUBJECTS = ("command", "argument", "parent", "context", "place", "library", "port", "behaviour")


@dataclass(frozen=True, slots=True)
class Example:
    """A process to which a rule applies: its command line, and what else of it matters, as in the subjects."""

    line: str
    parents: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ("compute",)
    places: tuple[str, ...] = ()
    libraries: tuple[str, ...] | None = ()
    ports: tuple[int, ...] | None = ()
    behaviours: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; `when` maps subjects to patterns. `confidence` is how sure it is, from 0 to 1.

    It does not hold for a process with a word of `command` that is wholly `unless`.
    """

    name: str
    category: str
    confidence: float
    when: Mapping[str, str]
    unless: str | None = None
    examples: tuple[Example, ...] = ()


def _rule(
    name: str,
    category: str,
    confidence: float,
    *examples: str | Example,
    unless: str | None = None,
    **when: str,
) -> Rule:
    made = tuple(Example(example) if isinstance(example, str) else example for example in examples)
    return Rule(name, category, confidence, when, unless, made)


def _words(*words: str) -> str:
    """Give a pattern for a name that has one of some words in it, as in run_train-2.py; letters around it do not count."""
    return rf"(?:.*[^a-z])?(?:{'|'.join(words)})(?:[^a-z].*)?"


PYTHON = r"(?:python|pypy)[\d.]*"
TORCH = r"libtorch(?:_cuda|_cpu|_python)?\.so.*|libc10_cuda\.so.*"
FRAMEWORK = (
    rf"{TORCH}|libtensorflow.*\.so.*|_pywrap_tensorflow.*\.so|xla_extension\.so|xla_cuda_plugin\.so|libjax.*\.so.*"
    r"|_jax\.so|libmxnet\.so|libpaddle.*\.so.*|libonnxruntime.*\.so.*|onnxruntime_pybind.*\.so|libnvinfer\.so.*"
)

TRAIN = _words(
    "train", "training", "trainer", "pretrain", "pretraining", "finetune", "finetuning", "fine_tune", "fine_tuning",
    "fine-tune", "sft", "dpo", "grpo", "ppo", "rlhf", "orpo", "lora", "qlora", "dreambooth", "distill", "distillation",
    "run_clm", "run_mlm", "run_glue", "run_squad", "run_seq2seq", "run_summarization", "run_translation", "run_qa",
    "textual_inversion", "nanogpt", "maxtext", "torchtitan",
)  # fmt: skip
SERVE = _words(
    "generate", "generation", "inference", "infer", "predict", "prediction", "predictor", "serve", "server", "serving",
    "chat", "chatbot", "completion", "completions", "api_server", "webui", "worker_inference",
)  # fmt: skip

DESKTOP = (
    _rule(
        "display-server", GENERAL, 0.95,
        Example("/usr/lib/xorg/Xorg -core :0 -seat seat0 -auth /var/run/lightdm/root/:0", contexts=("graphics",)),
        Example("/usr/bin/gnome-shell", contexts=("graphics",)),
        command=r"xorg|xwayland|gnome-shell|kwin_(?:x11|wayland)|plasmashell|mutter|weston|sway|hyprland|cinnamon|xfwm4"
        r"|picom|gdm.*|sddm.*|cosmic-comp|gamescope-wl|nxnode\.bin|xvnc|vncserver.*",
    ),
    _rule(
        "browser-or-desktop-app", GENERAL, 0.9,
        Example("/opt/google/chrome/chrome --type=gpu-process --crashpad-handler-pid=1", contexts=("graphics",)),
        Example("/usr/share/code/code --type=gpu-process", contexts=("graphics",)),
        command=r"chrome|chromium(?:-browser)?|google-chrome.*|firefox(?:-bin|-esr)?|msedge|brave(?:-browser)?|opera|vivaldi.*"
        r"|code|cursor|electron\d*|discord|slack|teams.*|zoom|spotify|thunderbird|nautilus|dolphin|steamwebhelper"
        r"|steam|obs|obs-studio|vlc|mpv|totem|gwenview|alacritty|kitty|wezterm-gui|ghostty",
    ),
    _rule(
        "mps-server", GENERAL, 0.9, "nvidia-cuda-mps-server", command=r"nvidia-cuda-mps-(?:server|control)",
    ),
)  # fmt: skip

GAMES = (
    _rule(
        "steam-tool", GENERAL, 0.8,
        Example("/home/a/.steam/steam/steamapps/common/SteamVR/bin/vrserver", contexts=("graphics",), places=("steam-tool",)),
        place="steam-tool", context="graphics", unless=r".*\.exe",
    ),
    _rule(
        "steam-game", GAMING, 0.98,
        Example("/mnt/games/SteamLibrary/steamapps/common/dota 2 beta/game/bin/linuxsteamrt64/dota2", contexts=("graphics",), places=("steam",)),
        place="steam", context="graphics",
    ),
    _rule(
        "steam-launched", GAMING, 0.95,
        Example("/usr/bin/some-game", parents=("/home/a/.steam/ubuntu12_32/reaper SteamLaunch AppId=570 -- ./game",), contexts=("graphics",)),
        parent="reaper", context="graphics",
    ),
    _rule(
        "game-launcher-child", GAMING, 0.9,
        Example("/opt/games/x/game.x86_64", parents=("/usr/bin/lutris",), contexts=("graphics",)),
        parent=r"lutris(?:-wrapper)?.*|heroic|legendary|bottles(?:-cli)?|gamescope|mangohud|gamemoderun|itch|minigalaxy|umu-run|proton",
        context="graphics", unless=r"lutris|heroic|bottles|gamescope|wineserver|explorer\.exe|winedevice\.exe",
    ),
    _rule(
        "graphics-api-in-name", GAMING, 0.9,
        Example(r"Z:\games\Quake II RTX\q2rtx-Vulkan.exe", contexts=("graphics",)),
        Example(r"C:\Game\Binaries\Win64\Game-dx12.exe", contexts=("graphics",)),
        command=r".*[-_](?:dx1[0-2]|d3d1[0-2]|vulkan|vk|opengl)(?:[-_].*)?\.exe", context="graphics",
    ),
    _rule(
        "engine-build-name", GAMING, 0.85,
        Example(r"C:\Game\Binaries\Win64\Hogwarts-Win64-Shipping.exe", contexts=("graphics",)),
        Example("./Factory-Linux-Shipping FactoryGame", contexts=("graphics",)),
        command=r".*-(?:win64|linux|wingdk)-shipping(?:\.exe)?|unityplayer.*|.*\.x86_64|ue4game.*|ue5game.*|hl2_linux|srcds_linux",
        context="graphics",
    ),
    _rule(
        "windows-tool", GENERAL, 0.6,
        Example(r"C:\windows\system32\explorer.exe /desktop", contexts=("graphics",)),
        command=r"(?:explorer|winedevice|services|plugplay|svchost|rpcss|steamwebhelper|steam|epicgameslauncher|galaxyclient"
        r"|eadesktop|ubisoftconnect|battle\.net|notepad|conhost|winecfg|crashreport.*|unitycrashhandler.*)\.exe",
    ),
    _rule(
        "windows-game-busy", GAMING, 0.9,
        Example(r"D:\Games\witcher3\bin\x64\witcher3.exe", contexts=("graphics",), behaviours=("busy",)),
        command=r".*\.exe", context="graphics", behaviour="busy",
    ),
    _rule(
        "windows-game", GAMING, 0.7,
        Example(r"D:\Games\witcher3\bin\x64\witcher3.exe", contexts=("graphics",)),
        command=r".*\.exe", context="graphics",
    ),
    _rule(
        "known-game", GAMING, 0.9,
        Example("java -Xmx4G net.minecraft.client.main.Main --username x", contexts=("graphics",)),
        Example("/usr/games/supertuxkart", contexts=("graphics",)),
        command=r"supertuxkart|xonotic.*|0ad|openarena|minetest|luanti|veloren.*|retroarch|dolphin-emu.*|rpcs3|yuzu|ryujinx"
        r"|pcsx2.*|cemu|ppsspp.*|net\.minecraft\..*|minecraft.*|csgo_linux64|cs2|dota2|factorio|valheim.*|bg3|openttd"
        r"|net\.fabricmc\..*|cpw\.mods\..*",
        context="graphics",
    ),
)  # fmt: skip

# Names of model servers, in any form they are started.
SERVERS = (
    _rule(
        "ollama", LLM, 0.99,
        "/usr/local/bin/ollama runner --ollama-engine --model /root/.ollama/models/blobs/sha256-12 --port 41231",
        "/tmp/ollama2043/runners/cuda_v12/ollama_llama_server --model /x/blobs/sha256-6a --ctx-size 8192 --port 36341",
        "/usr/lib/ollama/ollama serve",
        command=r"ollama|ollama_llama_server|ollama-runner|ollama\.exe",
    ),
    _rule(
        "vllm", LLM, 0.99,
        "/usr/bin/python3 /usr/local/bin/vllm serve meta-llama/Llama-3.1-8B-Instruct --tensor-parallel-size 2",
        "python3 -m vllm.entrypoints.openai.api_server --model mistralai/Mistral-7B",
        "VLLM::EngineCore",
        Example("ray::RayWorkerWrapper.execute_method", parents=("/usr/bin/python3 /usr/local/bin/vllm serve m",)),
        command=r"vllm|vllm::.*|vllm\..*|vllm_(?!nvext).*|aphrodite(?:\..*)?|ray::rayworkerwrapper.*|nano-?vllm.*",
    ),
    _rule(
        "sglang", LLM, 0.99,
        "python3 -m sglang.launch_server --model-path Qwen/Qwen2.5-7B-Instruct --port 30000",
        "sglang::scheduler_TP0",
        command=r"sglang|sglang(?:::|\.|_).*",
    ),
    _rule(
        "llama.cpp", LLM, 0.98,
        "/app/llama-server -m /models/q.gguf --host 0.0.0.0 --n-gpu-layers 99",
        "./llama-cli -m model.gguf -p hello",
        "python3 -m llama_cpp.server --model m.gguf",
        command=r"llama-(?:server|cli|bench|simple|run|perplexity|embedding|batched.*|parallel|speculative|mtmd-cli|swap)"
        r"|llamafile.*|.*\.llamafile|llama_cpp(?:\..*)?|koboldcpp.*|kobold-cpp|rpc-server|llama-box|ik_llama.*|whisperfile",
    ),
    _rule(
        "gguf-model", LLM, 0.95,
        "./main -m models/7B/ggml-model-q4_0.gguf -n 128",
        "./server -m /models/x.gguf -c 4096",
        argument=r".*\.gguf|.*\.ggml|ggml-model.*\.bin",
        unless=r".*(?:quantize|convert|split|imatrix).*",
    ),
    _rule(
        "tgi", LLM, 0.99,
        "/opt/conda/bin/python3.10 /opt/conda/bin/text-generation-server serve bigscience/bloom --sharded",
        "text-generation-launcher --model-id HuggingFaceH4/zephyr-7b-beta",
        "text-embeddings-router --model-id BAAI/bge-large-en",
        command=r"text-generation-(?:server|launcher|router|benchmark)|text_generation_server.*|text-embeddings-router|lorax-(?:server|launcher)",
    ),
    _rule(
        "triton", LLM, 0.95,
        "tritonserver --model-repository=/models --http-port=8000",
        Example("/opt/tritonserver/backends/python/triton_python_backend_stub /models/x/1/model.py", parents=("tritonserver",)),
        command=r"tritonserver|triton_python_backend_stub|tritonfrontend.*",
    ),
    _rule(
        "tensorrt-llm", LLM, 0.97,
        "/usr/bin/python3 /usr/local/bin/trtllm-serve nvidia/Llama-3.1-8B-Instruct-FP8",
        "python3 -m tensorrt_llm.commands.serve m",
        command=r"trtllm-(?:serve|bench|eval|llmapi-launch)|tensorrt_llm\..*|executorworker|trtllmexecutorworker|gptmanagerbenchmark",
    ),
    _rule(
        "lm-studio", LLM, 0.97,
        "/opt/LM-Studio/lm-studio --type=utility",
        "/home/u/.lmstudio/.internal/utils/node /home/u/.lmstudio/extensions/backends/llmworker.js",
        command=r"lm-studio|lm studio.*|lmstudio.*|llmster|lms|llmworker|llmworker\.js",
    ),
    _rule(
        "nim", LLM, 0.97,
        "python3 -m vllm_nvext.entrypoints.openai.api_server --served-model-name meta/llama3-8b-instruct",
        "/opt/nim/llm/.venv/bin/python3 -m nim_llm_sdk.entrypoints.openai.api_server",
        command=r"vllm_nvext\..*|nim_llm.*|nimutils.*|nim-llm.*|nim_llm_sdk\..*",
    ),
    _rule(
        "other-model-server", LLM, 0.95,
        "python3 -m lmdeploy serve api_server internlm/internlm2-chat-7b",
        "python -m fastchat.serve.model_worker --model-path lmsys/vicuna-7b-v1.5",
        "/usr/local/bin/mistralrs-server --port 1234 plain -m x",
        "python -m mlc_llm serve HF://mlc-ai/Llama",
        command=r"lmdeploy(?:\..*)?|fastchat\..*|mistralrs(?:-server)?|mlc_llm(?:\..*)?|local-?ai|gpt4all.*|jan|tabbyapi|exllama.*"
        r"|openllm(?:\..*)?|bentoml(?:\..*)?|xinference.*|mii\..*|deepspeed-mii|ctranslate2.*|cortex(?:-server)?"
        r"|torchserve|ts\.model_server|tensorflow_model_server|ovms|litgpt\.serve|infinity_emb|dynamo\..*|dynamo-run"
        r"|ktransformers.*|powerinfer|petals\.cli\..*|tgi-.*|nexa.*|llama_stack\..*|rapid-mlx|lightllm\..*|turbomind.*",
    ),
    _rule(
        "ray-serve", LLM, 0.85,
        "ray::ServeReplica:llm:LLMServer.handle_request",
        command=r"ray::servereplica.*|ray::.*(?:llmserver|vllmdeployment).*",
    ),
)  # fmt: skip

ML_BY_COMMAND = (
    _rule(
        "training-tool", TRAINING, 0.97,
        "/usr/bin/python3 /usr/local/bin/llamafactory-cli train examples/train_lora/llama3.yaml",
        "/opt/conda/bin/python /opt/conda/bin/tune run lora_finetune_single_device --config x.yaml",
        "yolo detect train data=coco.yaml",
        command=r"llamafactory-cli|litgpt|tune|yolo|autotrain|axolotl|swift|xtuner|nemo|composer|fairseq-.*|lightning|ultralytics",
        argument=r"train|fit|finetune.*|finetune_.*|pretrain|lora_finetune.*|full_finetune.*|sft|rlhf|dpo|mode=train|run",
    ),
    _rule(
        "inference-tool", LLM, 0.9,
        "/usr/bin/python3 /usr/local/bin/llamafactory-cli api x.yaml",
        "yolo predict model=yolo11n.pt",
        command=r"llamafactory-cli|litgpt|yolo|swift|xtuner|ultralytics|transformers(?:-cli)?",
        argument=r"api|chat|webchat|serve|generate|predict|infer|deploy|mode=predict|val",
    ),
    _rule(
        "training-package", TRAINING, 0.95,
        "python -m axolotl.cli.train config.yml",
        "python3 -m MaxText.train configs/base.yml",
        "ray::RayTrainWorker._RayTrainWorker__execute",
        "fairseq-train data-bin/x --arch transformer",
        command=r"axolotl\.cli\.(?:train|preprocess)|fairseq-(?:train|hydra-train)|fairseq_cli\.train|megatron\..*train.*"
        r"|ray::.*(?:train|learner|rollout|actor_rollout|fsdpworker).*|maxtext\..*|torchtitan\..*|nemo_rl\..*|verl\.trainer.*|openrlhf\.cli\..*"
        r"|trl|llmfoundry\..*|kohya_.*|sdxl_train.*|flux_train.*|train_network|nanotron\..*|t5x\..*|tensor2tensor\..*",
    ),
    _rule(
        "script-says-training", TRAINING, 0.9,
        "python train.py --epochs 10",
        "/opt/conda/envs/vllm/bin/python -u /home/ollama/finetune_llama.py",
        "python3 pretrain_gpt.py --tensor-model-parallel-size 4",
        "python examples/pytorch/language-modeling/run_clm.py --model_name_or_path gpt2",
        command=TRAIN,
    ),
    _rule(
        "arguments-of-training", TRAINING, 0.85,
        "python main.py --lr 0.1 --epochs 90 /data/imagenet",
        "python main.py fit --config cfg.yaml",
        "python run.py --deepspeed ds_config.json --bf16",
        command=PYTHON,
        argument=r"--(?:lr|learning-rate|num-train-epochs|num-epochs|epochs|max-epochs|n-epochs|deepspeed|deepspeed-config"
        r"|per-device-train-batch-size|train-batch-size|train-batch|micro-batch-size|global-batch-size|gradient-accumulation-steps"
        r"|weight-decay|warmup-steps|train-data|train-file|train-dir|training-steps|train-steps|lr-scheduler|optimizer|do-train)"
        r"|fit|mode=train|trainer\..*|\+?trainer=.*",
    ),
    _rule(
        "arguments-of-inference", LLM, 0.75,
        "python demo.py --prompt hello --max-new-tokens 64",
        command=PYTHON,
        argument=r"--(?:prompt|prompts|max-new-tokens|max-model-len|served-model-name|max-num-seqs|temperature|top-p|gpu-memory-utilization|kv-cache-dtype|ckpt-dir)",
    ),
    _rule(
        "general-by-name", GENERAL, 0.9,
        "gmx mdrun -deffnm md_0_1 -nb gpu",
        "/usr/bin/hashcat -m 1000 hashes.txt",
        "ffmpeg -hwaccel cuda -i in.mp4 -c:v h264_nvenc out.mp4",
        "blender -b scene.blend -E CYCLES -a",
        "./t-rex -a ethash -o stratum+tcp://pool:4444",
        command=r"gmx(?:_mpi|_d)?|mdrun.*|lmp(?:_.*)?|lammps|namd[23]|pmemd(?:\..*)?|amber.*|vasp.*|cp2k.*|pw\.x|q-e.*|gaussian|g16"
        r"|relion.*|cryosparc.*|fahcore_.*|fah-client|boinc|hashcat(?:\.bin)?|john|ffmpeg|ffprobe|gst-launch-1\.0|handbrake.*"
        r"|blender|nuke.*|davinci.*|resolve|octane.*|redshift.*|v-ray.*|arnold|kick|luxcore.*|matlab|mathkernel|wolframkernel"
        r"|t-rex|lolminer|nbminer|gminer|miner|xmrig.*|ethminer|phoenixminer|teamredminer|rigel|bzminer"
        r"|nsys|ncu|nvprof|cuda-gdb|compute-sanitizer|gpu_burn|gpu-burn|nvbandwidth|bandwidthtest|devicequery|p2pbandwidthlatencytest"
        r"|.*_perf|nccl-tests|dcgmproftester.*|dcgmi|nv-hostengine|hpl.*|xhpl|hpcg.*|stream|ansys.*|fluent.*|abaqus.*|starccm.*|openfoam.*"
        r"|comsol.*|kit|isaac-sim.*|omniverse.*|unreal.*|unity|paraview|pvserver|pvbatch|vmd|chimerax|pymol|rapids.*|dask-cuda-worker"
        r"|dask-worker|spark-.*|org\.apache\.spark\..*|milvus|gpu-operator.*|parabricks|pbrun|clara.*|guppy_basecaller|dorado|gaia|alphafold.*"
        r"|colabfold.*|boltz|openmm.*|nvidia-.*|plex transcoder|jellyfin-ffmpeg|frigate.*|deepstream-app|nvenc.*|sunshine|cuda-samples.*|faiss.*|glxgears|vkcube|glmark2",
    ),
)  # fmt: skip

BY_LIBRARY = (
    _rule(
        "framework-and-serving-name", LLM, 0.85,
        Example("python3 inference.py --ckpt model.pt", libraries=("libtorch_cuda.so", "libc10_cuda.so")),
        Example("python generate.py", libraries=("libtorch_cuda.so",)),
        command=SERVE, library=FRAMEWORK,
    ),
    _rule(
        "framework-under-serving-script", LLM, 0.6,
        Example("python app.py", parents=("/bin/bash start_server.sh",), libraries=("libtorch_cuda.so",)),
        parent=rf"{SERVE}|uvicorn|gunicorn|hypercorn", library=FRAMEWORK,
    ),
    _rule(
        "web-server-with-framework", LLM, 0.75,
        Example("/usr/bin/python3 /usr/local/bin/uvicorn app:app --port 8000", libraries=("libtorch_cuda.so",)),
        command=r"uvicorn|gunicorn|hypercorn|flask|streamlit|gradio|granian|robyn", library=FRAMEWORK,
    ),
    _rule(
        "distributed-launcher", TRAINING, 0.8,
        Example("/usr/bin/python -u run.py cfg.yaml", parents=("/usr/bin/python /usr/local/bin/torchrun --nproc-per-node 8 run.py",)),
        Example("python -u main.py", parents=("python /opt/conda/bin/accelerate launch main.py",)),
        Example("python -u main.py", parents=("python -m torch.distributed.run main.py",)),
        parent=r"torchrun|torch\.distributed\.(?:run|launch)|accelerate(?:\.commands\.launch)?|deepspeed|horovodrun|composer|colossalai"
        r"|lightning|fabric|deepspeed\.launcher\..*|accelerate-launch|tune|axolotl|llamafactory-cli",
    ),
    _rule(
        "under-training-script", TRAINING, 0.7,
        Example("python main.py", parents=("/bin/bash run_train.sh",)),
        parent=TRAIN, command=PYTHON,
    ),
    _rule(
        "model-server-port", LLM, 0.7,
        Example("python app.py", libraries=("libtorch_cuda.so",), ports=(8000,)),
        library=FRAMEWORK, port=r"8000|8001|8080|8081|5000|7860|11434|30000|23333|1234|8888|9997|3000",
    ),
    _rule(
        "llama.cpp-library", LLM, 0.9,
        Example("./my-app", libraries=("libggml-cuda.so", "libllama.so")),
        library=r"libllama\.so.*|libggml-cuda\.so.*|libmtmd\.so.*",
    ),
    _rule(
        "distributed-training-library", TRAINING, 0.75,
        Example("python main.py", libraries=("libtorch_cuda.so", "fused_adam.cpython-311-x86_64-linux-gnu.so")),
        library=r"fused_adam.*\.so|amp_c.*\.so|multi_tensor.*\.so|libhorovod.*\.so|mpi_lib.*\.so|deepspeed_.*\.so",
    ),
)  # fmt: skip

BY_BEHAVIOUR = (
    _rule(
        "game-like", GAMING, 0.6,
        Example("/opt/x/thing", contexts=("graphics",), behaviours=("busy", "steady")),
        context="graphics", behaviour="busy", unless=PYTHON,
    ),
    _rule(
        "works-like-training", TRAINING, 0.6,
        Example("python main.py", libraries=("libtorch_cuda.so",), behaviours=("steady", "trains")),
        behaviour="trains", library=FRAMEWORK,
    ),
    _rule(
        "works-like-inference", LLM, 0.5,
        Example("python main.py", libraries=("libtorch_cuda.so",), behaviours=("answers",)),
        behaviour="answers", library=FRAMEWORK,
    ),
    _rule(
        "encodes-video", GENERAL, 0.7,
        Example("/opt/x/thing", behaviours=("encoding",)),
        behaviour="encoding",
    ),
)  # fmt: skip

FALLBACKS = (
    _rule(
        "native-compute", GENERAL, 0.5,
        Example("./solver --steps 100", libraries=("libcudart.so.12", "libc.so.6")),
        unless=rf"{PYTHON}|java|node|ray::.*", context="compute|mps", library=r"lib(?:cuda|cudart|cublas|cufft|cusparse|cusolver|curand|nccl|nvrtc|opencl)\.so.*",
    ),
    _rule(
        "numeric-python", GENERAL, 0.6,
        Example("python sim.py", libraries=("libcudart.so.12", "_cupy.so", "core.cpython-311-x86_64-linux-gnu.so", "libcupy.so")),
        command=PYTHON, library=r"(?:lib)?_?cupy.*\.so|libcudf\.so|libcuml.*\.so|libcugraph\.so|libraft\.so|libnumba.*\.so|_pycuda.*\.so|_driver\.cpython.*\.so|libopenmm.*\.so|libwarp.*\.so|warp\.so",
    ),
)  # fmt: skip

RULES = (*DESKTOP, *GAMES, *SERVERS, *ML_BY_COMMAND, *BY_LIBRARY, *BY_BEHAVIOUR, *FALLBACKS)
