# mgcv's bam(discrete = TRUE) on the rows that bench.py wrote; prints one JSON line.
suppressPackageStartupMessages(library(mgcv))
arguments <- commandArgs(trailingOnly = TRUE)
folder <- arguments[1]; family <- arguments[2]; n <- as.integer(arguments[3]); basis <- arguments[4]; p <- 10
read <- function(name, size) readBin(file.path(folder, name), "double", size)
peak <- function() {
  status <- readLines("/proc/self/status")
  as.numeric(gsub("[^0-9]", "", grep("VmHWM", status, value = TRUE))) / 1024
}
data <- as.data.frame(matrix(read("X", n * p), n, p))
names(data) <- paste0("x", seq_len(p))
data$y <- read("y", n)
truth <- read("eta", n)
formula <- as.formula(paste("y ~", paste0("s(x", seq_len(p), ", ", basis, ", k = 15)", collapse = " + ")))
before <- peak()
time <- system.time(
  model <- bam(formula, data = data, discrete = TRUE, nthreads = 1,
               family = if (family == "binomial") binomial() else gaussian())
)
extra <- peak() - before
few <- seq_len(min(n, 10000))
eta <- predict(model, data[few, ], discrete = FALSE)
cat(sprintf('{"fit_s": %.4f, "extra_mb": %.1f, "rmse": %.6f}\n',
            time[["user.self"]] + time[["sys.self"]], extra, sqrt(mean((eta - truth[few])^2))))
