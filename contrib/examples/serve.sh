#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A service that somebody waits for, on a quarter of a GPU.
#SBATCH --job-name=serve
#SBATCH --gres=detshare:latency:0.25
#SBATCH --time=7-0
srun python serve.py
