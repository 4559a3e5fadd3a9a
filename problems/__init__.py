"""What is optimized in meta-training: problems, their instances, and named suites of them.

    import problems

    for problem in problems.suite("released"):
        instance = problem.sample_instance(instance_key)
        parameters = problem.initial_parameters(start_key, instance)
        batches = problem.batches(run_key, start=0, num_steps=100, instance=instance)

A new problem is one file with a class under `@problems.register`, and one line here.
"""

from problems import datasets
from problems.autoencoder import Autoencoder
from problems.chains import DependencyChain, MinMaxWell, OutwardSnake
from problems.convnet import ConvNet
from problems.directions import ProjectionQuadratic, SumOfQuadratics
from problems.embeddings import OneHotSparseSoftmaxRegression, SparseSoftmaxRegression
from problems.functions_2d import (
    Ackley,
    Beale,
    Booth,
    Branin,
    LogSumExp,
    Matyas,
    Michalewicz,
    Rosenbrock,
    Saddle,
    StyblinskiTang,
)
from problems.matmul import MatMulAlgorithm
from problems.mnist import MNIST, load_mnist
from problems.networks import FullyConnected, SoftmaxRegression
from problems.patch_convnet import ConvAutoencoder, PatchConvNet
from problems.perceptrons import NormalizedPerceptron, Regressor
from problems.problem import Problem
from problems.quadratic import Bowl, Norm, PowerLawQuadratic, Quadratic
from problems.registry import from_json, parse, register, registered, to_json
from problems.sequences import AttentionLanguageModel, RecurrentLanguageModel, RowReader
from problems.suites import add_suite, suite, suite_names
from problems.transformers import PatchTransformer
from problems.transforms import LogObjective, RandomRescale, Rescale, SparseGradients, SumOf

__all__ = [
    "MNIST",
    "Ackley",
    "AttentionLanguageModel",
    "Autoencoder",
    "Beale",
    "Booth",
    "Bowl",
    "Branin",
    "ConvAutoencoder",
    "ConvNet",
    "DependencyChain",
    "FullyConnected",
    "LogObjective",
    "LogSumExp",
    "MatMulAlgorithm",
    "Matyas",
    "Michalewicz",
    "MinMaxWell",
    "Norm",
    "NormalizedPerceptron",
    "OneHotSparseSoftmaxRegression",
    "OutwardSnake",
    "PatchConvNet",
    "PatchTransformer",
    "PowerLawQuadratic",
    "Problem",
    "ProjectionQuadratic",
    "Quadratic",
    "RandomRescale",
    "RecurrentLanguageModel",
    "Regressor",
    "Rescale",
    "Rosenbrock",
    "RowReader",
    "Saddle",
    "SoftmaxRegression",
    "SparseGradients",
    "SparseSoftmaxRegression",
    "StyblinskiTang",
    "SumOf",
    "SumOfQuadratics",
    "add_suite",
    "datasets",
    "from_json",
    "load_mnist",
    "parse",
    "register",
    "registered",
    "suite",
    "suite_names",
    "to_json",
]
